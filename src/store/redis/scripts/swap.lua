-- Replaces a value, or removes it; the old one.
-- KEYS: where. ARGV: value ('' removes), its life in milliseconds.
local old = redis.call('GET', KEYS[1])
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return old
