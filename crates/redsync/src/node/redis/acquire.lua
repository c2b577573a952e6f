-- Grants the lease if the name is free, or lets it start anew if this token has it already, unless it lasts longer anyway.
-- For servers whose SET does not take NX and GET together (before Redis 7.0), and for a token that
-- SET found to be the holder.
--
-- KEYS[1]  the lease: the lock's name
-- ARGV[1]  token
-- ARGV[2]  expiry, milliseconds
-- Reply    nil: granted; {holder's token, milliseconds left or -1}: taken
-- Called by RedisNode::acquire.
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[1] then
  -- A request that was held up does not shorten what was extended since.
  if not holder or redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  end
  return false
end
return {string.sub(holder, 1, 512), redis.call('PTTL', KEYS[1])}
