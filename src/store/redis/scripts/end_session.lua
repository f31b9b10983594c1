-- Ends a session; whose it was.
-- KEYS: the session, and what is known of it.
local user = redis.call('GET', KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
return user
