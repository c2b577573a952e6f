-- Lets the lease last for the expiry from now on, if this token has it.
--
-- KEYS[1]  the lease: the lock's name
-- ARGV[1]  token
-- ARGV[2]  expiry, milliseconds
-- ARGV[3]  '1': if nobody has the lease, grant it to this token again; '0': leave it
-- Reply    1: extended; 2: granted again; 0: nobody has it;
--          {holder's token, milliseconds left or -1}: another has it
-- Called by RedisNode::extend.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
if holder then
  return {holder, redis.call('PTTL', KEYS[1])}
end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 2
end
return 0
