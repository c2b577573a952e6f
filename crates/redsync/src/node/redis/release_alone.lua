-- The most frequent release of all, before anything else is set up: the token has the lease, and nobody waits.
--
-- KEYS, ARGV and reply as in release.lua, which goes on where this is not the case.
local call, lease = redis.call, KEYS[1]
local holder = call('GET', lease)
if holder == ARGV[1] and call('ZCARD', KEYS[2]) == 0 then
  call('DEL', lease)
  return 1
end

