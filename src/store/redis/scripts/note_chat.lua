-- Notes a chat among those of its user, and forgets those that must have ended, and beyond the maximum
-- the ones that do so first.
-- KEYS: the user's chats. ARGV: chat, now, rest of its life at the most in milliseconds, most chats.
local now, life, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local noted = redis.call('HGET', KEYS[1], ARGV[1])
local made = noted and string.match(noted, '^%d+') or ARGV[2]
redis.call('HSET', KEYS[1], ARGV[1], made .. ' ' .. string.format('%.0f', now + life))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local entries = redis.call('HGETALL', KEYS[1])
local others = {}
for place = 1, #entries, 2 do
  local ends = tonumber(string.match(entries[place + 1], '%d+$'))
  if entries[place] ~= ARGV[1] then
    if ends <= now then
      redis.call('HDEL', KEYS[1], entries[place])
    else
      others[#others + 1] = {ends, entries[place]}
    end
  end
end
if #others >= most then
  table.sort(others, function(one, two)
    return one[1] > two[1]
  end)
  for place = most, #others do
    redis.call('HDEL', KEYS[1], others[place][2])
  end
end
return 0
