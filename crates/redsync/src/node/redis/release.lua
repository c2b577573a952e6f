-- Ends the lease if this token has it, and hands it over to the first in line; or takes the token out of the line.
-- Another's lease stays as it is. Where nobody has the lease, the first in line gets it.
--
-- KEYS     as in line.lua
-- ARGV[1]  token
-- ARGV[2]  nothing: the lease is handed over; 'barging': it is let go of, and the first in line is told that it may ask
-- Reply    1: released; 2: it had a place in line, and has left; 0: nobody has the lease;
--          {holder's token, milliseconds left or -1}: another has it;
--          3: released, and let go of, since the first in line wants a fence and its counter was not given;
--          10 more than 0, 1 or 2: more waiters are dead than one call drops; the caller calls again. A lease that this token
--          has stays until the last of these calls, so that nobody comes before those who wait
-- Called by RedisNode::release.
local token = ARGV[1]
local reply = 1 -- holder: as release_alone.lua found it
if holder ~= token then
  reply = leave(token) and 2 or 0
  if holder then
    return reply == 2 and 2 or {string.sub(holder, 1, 512), redis.call('PTTL', LEASE)}
  end
end
if not ARGV[2] then
  local next = hand_over({}, token)
  if next == true then
    return reply + 10
  end
  if next ~= nil then
    return reply
  end
  reply = reply == 1 and 3 or reply
end
redis.call('TIME')
leave(token)
redis.call('DEL', LEASE)
local deaf = {}
local next = first_alive({}, function(_, contact)
  deaf[contact] = deaf[contact] or contact ~= '' and not tell(contact, 'freed:' .. LEASE)
  return not deaf[contact]
end)
return next == true and reply + 10 or reply
