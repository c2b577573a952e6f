-- Says who has the lease and for how long. Changes nothing.
--
-- KEYS[1]  the lease: the lock's name
-- Reply    nil: nobody; {holder's token, milliseconds left or -1}
-- Called by RedisNode::inspect.
local holder = redis.call('GET', KEYS[1])
if not holder then
  return false
end
return {holder, redis.call('PTTL', KEYS[1])}
