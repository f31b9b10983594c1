-- Notes a session among those of its user. Those that have expired go, and the first-started ones
-- beyond the maximum; returns them.
-- KEYS: the user's sessions. ARGV: session, what is noted of it, now, its life in milliseconds, most
-- sessions.
local now, most = tonumber(ARGV[3]), tonumber(ARGV[5])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local entries = redis.call('HGETALL', KEYS[1])
local others, gone = {}, {}
for place = 1, #entries, 2 do
  local session = entries[place]
  local created, ends = string.match(entries[place + 1], '^(%d+) (%d+)')
  if session ~= ARGV[1] then
    if not created or tonumber(ends) <= now then
      gone[#gone + 1] = session
    else
      others[#others + 1] = {tonumber(created), session}
    end
  end
end
table.sort(others, function(one, two)
  if one[1] ~= two[1] then
    return one[1] > two[1]
  end
  return one[2] > two[2]
end)
for place = most, #others do
  gone[#gone + 1] = others[place][2]
end
for _, session in ipairs(gone) do
  redis.call('HDEL', KEYS[1], session)
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
end
return gone
