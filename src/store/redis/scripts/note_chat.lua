-- Notes a chat among those of its user, and forgets those that must have ended.
-- KEYS: the user's chats. ARGV: chat, when it has ended at the latest, now, rest of the set's life in
-- milliseconds, most chats.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[5]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 0
