-- What the scripts that know of the line have in common; it stands before each of them, after fence.lua.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the line: a sorted set, ticket -> token
-- KEYS[3]  the waiters: a hash, token -> deadline:round:expiry:fence:retention:contact
--          deadline in microseconds of this server's clock; expiry in milliseconds; fence is what is proposed for one, or 0
--          where none is asked for; retention in milliseconds; contact is empty, or the channel that the waiter is told on,
--          after a P (any channel) or an S (one of the slot's own)
-- KEYS[4]  the fence: the lock's counter
local LEASE, LINE, WAITERS, FENCE = KEYS[1], KEYS[2], KEYS[3], KEYS[4]

-- Whether somebody heard it. Where telling is not permitted, nobody can know: the waiter finds out when it asks.
local function tell(contact, message)
  local verb = string.sub(contact, 1, 1) == 'S' and 'SPUBLISH' or 'PUBLISH'
  local heard = redis.pcall(verb, string.sub(contact, 2), message)
  return type(heard) == 'table' or heard > 0
end

-- Gives the lease to the first in line who is alive, and tells it, unless it is among those `asking`. Those who let their
-- deadline pass, or whose connection is gone, are dropped, and so is who is `leaving`. Gives who has it, or false: then it
-- is free.
local function hand_over(asking, leaving)
  local now = false
  while true do
    local token = redis.call('ZPOPMIN', LINE)[1]
    if not token then
      redis.call('DEL', LEASE)
      return false
    end
    local waiter = token ~= leaving and redis.call('HGET', WAITERS, token)
    redis.call('HDEL', WAITERS, token)
    if not now then
      -- Not before it is known that there is a line: most releases have none.
      now = now_micros()
      if leaving and redis.call('ZREM', LINE, leaving) == 1 then
        redis.call('HDEL', WAITERS, leaving)
      end
    end
    if waiter then
      local deadline, round, expiry, proposal, retention, contact =
        string.match(waiter, '^(%d+):(%d+):(%d+):(%d+):(%d+):(.*)$')
      if deadline and (asking[token] or tonumber(deadline) > now) then
        local fence = proposal ~= '0' and next_fence(FENCE, proposal, now)
        local message = not asking[token] and contact ~= ''
          and round .. ':' .. (is_fence(fence) and string.format('%.0f', fence) or 0) .. ':' .. #token .. ':' .. token .. LEASE
        if not message or tell(contact, message) then
          redis.call('SET', LEASE, token, 'PX', expiry)
          if fence then
            redis.call('SET', FENCE, fence, 'PX', retention)
          end
          return token
        end
      end
    end
  end
end

