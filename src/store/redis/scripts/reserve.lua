-- Counts a hit in a rate-limit window, unless it is at its limit.
-- KEYS: the window. ARGV: limit, now, length; milliseconds.
-- Returns whether the hit was counted, when the window ends, and whether it has begun with this hit.
local limit, now, length = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local stored = redis.call('HMGET', KEYS[1], 'hits', 'ends')
local hits, ends = tonumber(stored[1] or 0), tonumber(stored[2] or 0)
-- Servers' clocks differ a little; an end two lengths away was written before a clock was set back.
local begins = 0
if now >= ends or ends > now + 2 * length then
  hits, ends, begins = 0, now + length, 1
end
if hits >= limit then
  return {0, ends, 0}
end
redis.call('HSET', KEYS[1], 'hits', hits + 1, 'ends', ends)
redis.call('PEXPIRE', KEYS[1], ends - now + 1000)
return {1, ends, begins}
