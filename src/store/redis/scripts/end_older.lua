-- Ends a session of this user that began before an event: by what is known of it, or by the life that it has left.
-- One that ends never, or later than any that is made now, may be of any age.
-- KEYS: the session, and what is known of it. ARGV: user, when the event was, what is left now to a session that
-- began then, to one that begins now, all in milliseconds.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local began = string.match(redis.call('GET', KEYS[2]) or '', '^%d+ (%d+)')
if began then
  if tonumber(began) >= tonumber(ARGV[2]) then
    return 0
  end
else
  local left = redis.call('PTTL', KEYS[1])
  if left >= tonumber(ARGV[3]) and left <= tonumber(ARGV[4]) then
    return 0
  end
end
return redis.call('DEL', KEYS[1], KEYS[2])
