-- Does once what the other scripts and commands do, so that missing rights show; nothing of it stays.
-- KEYS: a key that is nobody's.
local key = KEYS[1]
redis.call('SET', key, '1', 'PX', 60000)
redis.call('GET', key)
redis.call('MGET', key)
redis.call('DEL', key)
redis.call('HSET', key, 'a', '1')
redis.call('PEXPIRE', key, 60000)
redis.call('PTTL', key)
redis.call('HINCRBY', key, 'a', 1)
redis.call('HGET', key, 'a')
redis.call('HMGET', key, 'a')
redis.call('HGETALL', key)
redis.call('HDEL', key, 'a')
redis.call('DEL', key)
redis.call('SCAN', 0, 'COUNT', 1)
return 1
