-- The most frequent fenced acquisition of all, before anything else is set up: the name is free.
--
-- KEYS, ARGV and reply as in acquire_fenced.lua, which goes on where this is not the case.
-- First of all what may not be permitted: a script that fails leaves what it has done until then.
local call = redis.call
local time = call('TIME')
if call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then
  -- As next_fence does it, in fence.lua; what is no number is taken for a counter at its end.
  local counter = redis.pcall('GET', KEYS[2]) or 0
  if counter ~= 0 then
    counter = type(counter) == 'string' and string.find(counter, '^%d+$') and tonumber(counter) or 9007199254740991
  end
  local now = time[1] * 1000000 + time[2]
  local proposal = tonumber(ARGV[3])
  local fence = proposal
  if fence > now + 1000000 then
    fence = now + 1000000
  end
  if fence <= counter then
    fence = counter + 1
  elseif counter == 0 and fence < now - 1000000 then
    fence = now - 1000000
  end
  if fence <= 9007199254740991 then
    -- Numbers cost more to hand over than texts.
    call('SET', KEYS[2], fence == proposal and ARGV[3] or fence, 'PX', ARGV[4])
    return fence
  end
  redis.call('DEL', KEYS[1])
  return redis.error_reply('FENCE the counter in ' .. KEYS[2] .. ' cannot be raised: it is no number, or at its end')
end

