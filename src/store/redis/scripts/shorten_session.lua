-- Has a session, if it is there still, end sooner.
-- KEYS: the session, and what is known of it. ARGV: what is to be known, the rest of its life in milliseconds.
if redis.call('PEXPIRE', KEYS[1], ARGV[2]) == 1 then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return 0
