-- Empties this owner's chat and gives it a new generation.
-- KEYS: the chat. ARGV: owner, generation.
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then
  redis.call('HSET', KEYS[1], 'messages', '', 'generation', ARGV[2])
end
return 0
