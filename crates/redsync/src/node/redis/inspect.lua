-- Says who has the lease and for how long, and who waits for it. Changes nothing.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the line, as in line.lua
-- KEYS[3]  the fence: the lock's counter
-- ARGV[1]  how many of those who wait are told of
-- Reply    {holder's token or nil, milliseconds left or -1, how many wait, where the counter stands, or 0, token, ticket,
--          token, ticket, …}
-- Called by RedisNode::inspect, after fence.lua.
local reply = {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), math.ceil(redis.call('ZCARD', KEYS[2]) / 2)}
reply[#reply + 1] = counter_at(KEYS[3]) or 0
local line = redis.call('ZRANGE', KEYS[2], 0, ARGV[1] * 2 - 1, 'WITHSCORES')
for i = 1, #line, 4 do
  reply[#reply + 1] = line[i]
  reply[#reply + 1] = line[i + 1]
end
return reply
