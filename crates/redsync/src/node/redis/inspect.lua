-- Says who has the lease and for how long, and who waits for it. Changes nothing.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the line: a sorted set, ticket -> token
-- KEYS[3]  the fence: the lock's counter
-- ARGV[1]  how many of those who wait are told of
-- Reply    {holder's token or nil, milliseconds left or -1, how many wait, where the counter stands, or 0, token, ticket,
--          token, ticket, …}
-- Called by RedisNode::inspect, after fence.lua.
local reply = {redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]), redis.call('ZCARD', KEYS[2])}
reply[#reply + 1] = counter_at(KEYS[3]) or 0
for _, value in ipairs(redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1, 'WITHSCORES')) do
  reply[#reply + 1] = value
end
return reply
