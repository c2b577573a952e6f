-- Lets the lease last for the expiry from now on, if this token has it.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the fence: the lock's counter; nothing where no fence is given
-- ARGV[1]  token
-- ARGV[2]  expiry, milliseconds
-- ARGV[3]  '1': if nobody has the lease, grant it to this token again; '0': leave it
-- ARGV[4]  the fence that the counter is raised to, wherever this token has the lease afterwards; 0: none
-- ARGV[5]  how long the counter is kept, milliseconds
-- Reply    1: extended, or with a fence, 0 less where the counter stands; 2: granted again; 0: nobody has it;
--          {holder's token, milliseconds left or -1}: another has it
-- Called by RedisNode::extend, after fence.lua.
local function raised()
  local counter = counter_at(KEYS[2])
  if counter and counter >= tonumber(ARGV[4]) then
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
    return counter
  end
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[5])
  return tonumber(ARGV[4])
end

local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return ARGV[4] == '0' and 1 or -raised()
end
if holder then
  return {string.sub(holder, 1, 512), redis.call('PTTL', KEYS[1])}
end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  if ARGV[4] ~= '0' then
    raised()
  end
  return 2
end
return 0
