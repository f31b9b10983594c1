-- Empties a chat whose messages are not readable, unless they have changed since they were read.
-- KEYS: the chat. ARGV: the messages.
if redis.call('HGET', KEYS[1], 'messages') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'messages', '')
end
return 0
