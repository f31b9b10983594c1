-- Notes that a session is used. Returns whether it was noted among its user's.
-- KEYS: the user's sessions. ARGV: session, now.
local noted = redis.call('HGET', KEYS[1], ARGV[1])
if not noted then
  return 0
end
local seen = string.gsub(noted, '^(%d+ %d+) %d+', '%1 ' .. ARGV[2], 1)
redis.call('HSET', KEYS[1], ARGV[1], seen)
return 1
