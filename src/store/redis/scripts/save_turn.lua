-- Adds an exchange to a chat of this generation and trims it, as `llm::history::append` does.
-- KEYS: the chat. ARGV: generation, exchange (two lines, or nothing), most exchanges, most bytes, end
-- and rest of its life in milliseconds.
local stored = redis.call('HMGET', KEYS[1], 'generation', 'messages')
if stored[1] ~= ARGV[1] then
  return 0
end
local messages, exchange = stored[2] or '', ARGV[2]
local exchanges_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local starts, at = {}, 1
while at <= #messages do
  local question = string.find(messages, '\n', at, true)
  local answer = question and string.find(messages, '\n', question + 1, true)
  if not answer then
    messages, starts = '', {}
    break
  end
  starts[#starts + 1] = at
  at = answer + 1
end
local kept_max = #starts
if exchange ~= '' and 2 * (#starts + 1) >= 3 * exchanges_max then
  kept_max = exchanges_max - 1
end
local kept = ''
for place, start in ipairs(starts) do
  if #starts - place < kept_max and #messages - start + 1 <= bytes_max - #exchange then
    kept = string.sub(messages, start)
    break
  end
end
redis.call('HSET', KEYS[1], 'messages', kept .. exchange, 'ends', ARGV[5])
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1
