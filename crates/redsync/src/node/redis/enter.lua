-- Gives each token its place in line, or renews it. Whoever has the lease keeps it, and its expiry starts anew; to yield
-- is to give it up and take a place instead. If the name is then free, the first in line gets it.
--
-- KEYS     as in line.lua
-- ARGV[1]  contact
-- ARGV[2]  '1': whoever of these has the lease yields it; '0': keeps it
-- ARGV[3…] for each: token, expiry in milliseconds, ticket, round, the fence that is proposed or 0, how long the counter
--          is kept in milliseconds
-- Reply    {holder's token, milliseconds left or -1, microseconds by this server's clock, for each: its place in line,
--          counted from 1; or if it has the lease, 0, less where the counter stands if it asks for a fence};
--          1: nobody has the lease, and more waiters are dead than one call drops; the caller calls again
-- Called by RedisNode::enter and RedisNode::yield_lease.
local contact, yields = ARGV[1], ARGV[2] == '1'
local now = now_micros()
local holder = redis.call('GET', LEASE)
local asking, longest = {}, 0
for i = 3, #ARGV, 6 do
  local token, expiry, ticket = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  asking[token] = true
  if token == holder and not yields then
    redis.call('PEXPIRE', LEASE, expiry)
    if ARGV[i + 4] ~= '0' and counter_at(FENCE) then
      redis.call('PEXPIRE', FENCE, ARGV[i + 5])
    end
  else
    leave(token)
    local deadline = string.format('%.0f', now + expiry * 1000)
    local waiter = {deadline, ARGV[i + 3], expiry, ARGV[i + 4], ARGV[i + 5], contact}
    redis.call('ZADD', LINE, ticket, token, ticket, token .. '\0' .. table.concat(waiter, ':'))
    longest = math.max(longest, tonumber(expiry))
  end
end
if longest > 0 then
  -- What nobody renews any more is gone with the last deadline.
  if redis.call('PTTL', LINE) < longest then
    redis.call('PEXPIRE', LINE, string.format('%d', longest))
  end
end
if not holder or (yields and asking[holder]) then
  holder = hand_over(asking, false)
  if holder == true then
    redis.call('DEL', LEASE)
    return 1
  end
end
-- Others may keep anything there, at any length; no token is longer.
local reply = {holder and string.sub(holder, 1, 512), redis.call('PTTL', LEASE), now}
for i = 3, #ARGV, 6 do
  local rank = ARGV[i] ~= holder and redis.call('ZRANK', LINE, ARGV[i])
  local fence = not rank and ARGV[i + 4] ~= '0' and counter_at(FENCE)
  reply[#reply + 1] = rank and math.floor(rank / 2) + 1 or -(fence or 0)
end
return reply
