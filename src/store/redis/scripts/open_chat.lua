-- Makes a chat, or lets one of this owner and generation live on.
-- KEYS: the chat. ARGV: owner, generation, end and rest of its life in milliseconds, '1' if it is new.
local stored = redis.call('HMGET', KEYS[1], 'owner', 'generation')
if not stored[2] then
  if ARGV[5] ~= '1' then
    return 0
  end
  redis.call('HSET', KEYS[1], 'owner', ARGV[1], 'generation', ARGV[2], 'messages', '')
elseif stored[1] ~= ARGV[1] or stored[2] ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], 'ends', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
