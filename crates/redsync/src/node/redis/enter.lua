-- Gives each token its place in line, or renews it. Whoever has the lease keeps it, and its expiry starts anew; to yield
-- is to give it up and take a place instead. If the name is then free, the first in line gets it.
--
-- KEYS     as in line.lua
-- ARGV[1]  contact
-- ARGV[2]  '1': whoever of these has the lease yields it; '0': keeps it
-- ARGV[3…] for each: token, expiry in milliseconds, ticket, round
-- Reply    {holder's token, milliseconds left or -1, microseconds by this server's clock, for each: 0 if it has the
--          lease, or its place in line, counted from 1}
-- Called by RedisNode::enter and RedisNode::yield_lease.
local contact, yields = ARGV[1], ARGV[2] == '1'
local now = now_micros()
local holder = redis.call('GET', LEASE)
local asking, longest = {}, 0
for i = 3, #ARGV, 4 do
  local token, expiry, ticket, round = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  asking[token] = true
  if token == holder and not yields then
    redis.call('PEXPIRE', LEASE, expiry)
  else
    redis.call('ZADD', LINE, ticket, token)
    local deadline = string.format('%.0f', now + expiry * 1000)
    redis.call('HSET', WAITERS, token, deadline .. ':' .. round .. ':' .. expiry .. ':' .. contact)
    longest = math.max(longest, tonumber(expiry))
  end
end
if longest > 0 then
  -- What nobody renews any more is gone with the last deadline.
  if redis.call('PTTL', LINE) < longest then
    local duration = string.format('%d', longest)
    redis.call('PEXPIRE', LINE, duration)
    redis.call('PEXPIRE', WAITERS, duration)
  end
end
if not holder or (yields and asking[holder]) then
  holder = hand_over(asking, false)
end
local reply = {holder, redis.call('PTTL', LEASE), now}
for i = 3, #ARGV, 4 do
  local rank = ARGV[i] ~= holder and redis.call('ZRANK', LINE, ARGV[i])
  reply[#reply + 1] = rank and rank + 1 or 0
end
return reply
