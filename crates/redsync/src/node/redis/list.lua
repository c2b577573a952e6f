-- Says which keys are locks that are held, by whom, for how long, and how many wait. Changes nothing.
--
-- A lock's value is a token as this library makes them, or a line or a counter is beside it. All else need not be one; where
-- it is asked for, so is any text that expires and is no longer than a token.
--
-- KEYS     for each: the lease; the line; the fence
-- ARGV[1]  the longest token, bytes
-- ARGV[2]  '1': what need not be a lock is told of, too; '0': it is not
-- Reply    for each: its number among the keys, counted from 1; holder's token; milliseconds left or -1;
--          how many wait; where the counter stands, or 0
-- Called by RedisNode::list, after fence.lua.
local most, others = tonumber(ARGV[1]), ARGV[2] == '1'
local ours = '^' .. string.rep('[0-9a-f]', 40) .. '[@.]'
local reply = {}
for i = 1, #KEYS, 3 do
  -- No more than is needed to see that it is too long.
  local holder = redis.pcall('GETRANGE', KEYS[i], 0, most)
  if type(holder) == 'string' and #holder > 0 and #holder <= most then
    local is_beside = redis.call('EXISTS', KEYS[i + 1], KEYS[i + 2]) > 0
    local is_known = is_beside or string.find(holder, ours)
    local left = (is_known or others) and redis.call('PTTL', KEYS[i]) or -2
    if left >= 0 or (left == -1 and is_known) then
      local members = is_beside and redis.pcall('ZCARD', KEYS[i + 1])
      local waiting = type(members) == 'number' and math.ceil(members / 2) or 0
      local counter = is_beside and counter_at(KEYS[i + 2]) or 0
      for _, part in ipairs({(i + 2) / 3, holder, left, waiting, counter}) do
        reply[#reply + 1] = part
      end
    end
  end
end
return reply
