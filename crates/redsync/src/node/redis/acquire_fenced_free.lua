-- The most frequent fenced acquisition of all, before anything else is set up: the name is free, and what is proposed is near
-- this server's time, and larger than what was counted. Raising the counter and looking at it are one step then.
--
-- KEYS, ARGV and reply as in acquire_fenced.lua, which goes on where this is not the case.
local call = redis.call
-- First of all what may not be permitted: a script that fails leaves what it has done until then.
local time = call('TIME')
local is_granted = call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])
if is_granted then
  local ahead = tonumber(ARGV[3]) - (time[1] * 1000000 + time[2])
  if ahead >= -1000000 and ahead <= 1000000 then
    -- An error where something else than a text is kept there, which stays; or where the server is older than Redis 6.2.
    local counter = redis.pcall('SET', KEYS[2], ARGV[3], 'GET', 'PX', ARGV[4])
    local is_text = type(counter) == 'string'
    if not counter or is_text and string.find(counter, '^%d+$') and tonumber(counter) < tonumber(ARGV[3]) then
      return tonumber(ARGV[3])
    end
    if is_text then
      call('SET', KEYS[2], counter, 'PX', ARGV[4])
    end
  end
end

