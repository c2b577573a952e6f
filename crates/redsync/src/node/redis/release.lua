-- Ends the lease if this token has it, and hands it over to the first in line; or takes the token out of the line.
-- Another's lease stays as it is. Where nobody has the lease, the first in line gets it.
--
-- KEYS     as in line.lua
-- ARGV[1]  token
-- ARGV[2]  '0': the lease is handed over; '1': it is let go of, and the first in line is told that it may ask
-- Reply    1: released; 2: it had a place in line, and has left; 0: nobody has the lease;
--          {holder's token, milliseconds left or -1}: another has it
-- Called by RedisNode::release.
local token = ARGV[1]
local reply = 1 -- holder: as release_alone.lua found it
if holder ~= token then
  reply = 0
  if redis.call('ZREM', LINE, token) == 1 then
    redis.call('HDEL', WAITERS, token)
    reply = 2
  end
  if holder then
    return reply == 2 and 2 or {holder, redis.call('PTTL', LEASE)}
  end
end
if ARGV[2] == '0' then
  hand_over({}, token)
  return reply
end
redis.call('DEL', LEASE)
if redis.call('ZREM', LINE, token) == 1 then
  redis.call('HDEL', WAITERS, token)
end
local now = false
while true do
  local first = redis.call('ZRANGE', LINE, 0, 0)[1]
  if not first then
    return reply
  end
  local waiter = redis.call('HGET', WAITERS, first)
  if waiter then
    now = now or now_micros()
    local deadline, contact = string.match(waiter, '^(%d+):%d+:%d+:%d+:%d+:(.*)$')
    if deadline and tonumber(deadline) > now and (contact == '' or tell(contact, 'freed:' .. LEASE)) then
      return reply
    end
  end
  redis.call('ZREM', LINE, first)
  redis.call('HDEL', WAITERS, first)
end
