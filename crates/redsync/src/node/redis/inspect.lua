-- Says who has the lease and for how long, and who waits for it. Changes nothing.
--
-- KEYS     as in line.lua
-- ARGV[1]  how many of those who wait are told of
-- Reply    {holder's token or nil, milliseconds left or -1, how many wait, where the counter stands, or 0, token, ticket,
--          token, ticket, …}
-- Called by RedisNode::inspect.
local holder = redis.call('GET', LEASE)
-- Others may keep anything there, at any length. No token is longer than 512 bytes; one more byte shows that this is none.
local reply = {holder and string.sub(holder, 1, 513), redis.call('PTTL', LEASE), math.ceil(redis.call('ZCARD', LINE) / 2)}
reply[#reply + 1] = counter_at(FENCE) or 0
local members = redis.call('ZRANGE', LINE, 0, ARGV[1] * 2 - 1, 'WITHSCORES')
local token = false
for i = 1, #members, 2 do
  if not token or not waiter_in(members[i], token) then
    token = members[i]
    reply[#reply + 1] = token
    reply[#reply + 1] = members[i + 1]
  end
end
return reply
