-- Ends the lease if this token has it. Another's lease stays as it is.
--
-- KEYS[1]  the lease: the lock's name
-- ARGV[1]  token
-- Reply    1: released; 0: nobody has it;
--          {holder's token, milliseconds left or -1}: another has it
-- Called by RedisNode::release.
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('DEL', KEYS[1])
  return 1
end
if holder then
  return {holder, redis.call('PTTL', KEYS[1])}
end
return 0
