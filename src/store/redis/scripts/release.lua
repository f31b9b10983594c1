-- Gives a hit back to the window that it was counted in.
-- KEYS: the window. ARGV: when that one ends, milliseconds; '1' if it is to be as if the hit had never
-- been, and the window not begun with it.
local stored = redis.call('HMGET', KEYS[1], 'hits', 'ends')
local hits = tonumber(stored[1] or 0)
if tonumber(stored[2] or 0) ~= tonumber(ARGV[1]) or hits == 0 then
  return 0
end
if ARGV[2] == '1' and hits == 1 then
  redis.call('DEL', KEYS[1])
else
  redis.call('HINCRBY', KEYS[1], 'hits', -1)
end
return 0
