-- The most frequent release of all, before anything else is set up: the token has the lease, and nobody waits.
--
-- KEYS, ARGV and reply as in release.lua, which goes on where this is not the case.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] and redis.call('ZCARD', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1])
  return 1
end

