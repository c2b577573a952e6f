-- Ends the lease if this token has it, and hands it over to the first in line; or takes the token out of the line.
-- Another's lease stays as it is. Where nobody has the lease, the first in line gets it.
--
-- KEYS     as in line.lua
-- ARGV[1]  token
-- ARGV[2]  nothing: the lease is handed over; 'barging': it is let go of, and the first in line is told that it may ask
-- Reply    1: released; 2: it had a place in line, and has left; 0: nobody has the lease;
--          {holder's token, milliseconds left or -1}: another has it;
--          3: released, and let go of, since the first in line wants a fence and its counter was not given
-- Called by RedisNode::release.
local token = ARGV[1]
local reply = 1 -- holder: as release_alone.lua found it
if holder ~= token then
  reply = leave(token) and 2 or 0
  if holder then
    return reply == 2 and 2 or {holder, redis.call('PTTL', LEASE)}
  end
end
if not ARGV[2] then
  if hand_over({}, token) ~= nil then
    return reply
  end
  reply = reply == 1 and 3 or reply
end
local now = now_micros()
leave(token)
redis.call('DEL', LEASE)
while true do
  local members = redis.call('ZRANGE', LINE, 0, 1)
  local waiting, place = members[1], members[2]
  if not waiting then
    return reply
  end
  local waiter = said_of(waiting, place)
  if waiter then
    local deadline, contact = string.match(waiter, '^(%d+):%d+:%d+:%d+:%d+:(.*)$')
    if deadline and tonumber(deadline) > now and (contact == '' or tell(contact, 'freed:' .. LEASE)) then
      return reply
    end
    redis.call('ZREM', LINE, place)
  end
  redis.call('ZREM', LINE, waiting)
end
