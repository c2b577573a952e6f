-- How fences are counted; it stands before each of the scripts that grant leases.

-- This server's clock, in microseconds. Numbers up to here, some 2^51, are exact in Lua. They never pass through tostring.
local function now_micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function is_fence(number)
  return number and number >= 1 and number <= 9007199254740991
end

-- Where the lock's counter stands: 0 if it has none yet; nothing where something else is kept in its place. 2^53, which is no
-- fence any more, where somebody was granted the lease without one, the counter being at its end: it is not told another's.
local function counter_at(key)
  local text = redis.pcall('GET', key)
  if not text then
    return 0
  end
  local counter = type(text) == 'string' and string.find(text, '^%d+$') and tonumber(text)
  return (is_fence(counter) or text == '9007199254740992') and counter or nil
end

-- What the lock's counter is to be raised to by a grant: by one at least, and to what is proposed, but no further ahead of
-- this server's clock than a second; and the first time no further behind. 2^53 where there is no further fence; nothing where
-- it is no number.
local function next_fence(key, proposal, now)
  local counter = counter_at(key)
  if not counter then
    return nil
  end
  local least = counter == 0 and math.max(now - 1000000, 1) or counter + 1
  return math.min(math.max(least, math.min(tonumber(proposal), now + 1000000)), 9007199254740992)
end

