-- Grants the lease if the name is free, or lets it start anew if this token has it already, unless it lasts longer anyway;
-- and counts whom it is granted to.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the fence: the lock's counter
-- ARGV[1]  token
-- ARGV[2]  expiry, milliseconds
-- ARGV[3]  the fence that is proposed
-- ARGV[4]  how long the counter is kept, milliseconds
-- Reply    where the counter stands: granted; {holder's token, milliseconds left or -1}: taken
-- Called by RedisNode::acquire, after acquire_fenced_free.lua and fence.lua.
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then
  return {string.sub(holder, 1, 512), redis.call('PTTL', KEYS[1])}
end
local fence = counter_at(KEYS[2])
if fence == 0 then
  fence = next_fence(KEYS[2], ARGV[3], now_micros())
end
if not is_fence(fence) then
  return redis.error_reply('FENCE the counter in ' .. KEYS[2] .. ' cannot be raised: it is no number, or at its end')
end
redis.call('SET', KEYS[2], fence, 'PX', ARGV[4])
-- A request that was held up does not shorten what was extended since.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return fence
