-- What the scripts that know of the line have in common; it stands before each of them, after fence.lua.
--
-- KEYS[1]  the lease: the lock's name
-- KEYS[2]  the line: a sorted set. Who waits has two members there, both with its ticket for score: the token; and, next to
--          it, its place: the token, a zero byte, deadline:round:expiry:fence:retention:contact
--          deadline in microseconds of this server's clock; expiry in milliseconds; fence is what is proposed for one, or 0
--          where none is asked for; retention in milliseconds; contact is empty, or the channel that the waiter is told on,
--          after a P (any channel) or an S (one of the slot's own)
-- KEYS[3]  the fence: the lock's counter; nothing where whoever calls has nothing to do with fences
local LEASE, LINE, FENCE = KEYS[1], KEYS[2], KEYS[3]

-- What is said of the token in the place, if it is a place, and this token's.
local function said_of(token, place)
  if not place or string.sub(place, 1, #token + 1) ~= token .. '\0' then
    return nil
  end
  local said = string.sub(place, #token + 2)
  return string.find(said, '^%d+:%d+:%d+:%d+:%d+:') and said
end

-- Takes the token out of the line, and says whether it was there.
local function leave(token)
  local ticket = redis.call('ZSCORE', LINE, token)
  if not ticket then
    return false
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', LINE, ticket, ticket)) do
    if said_of(token, member) then
      redis.call('ZREM', LINE, member)
    end
  end
  return redis.call('ZREM', LINE, token) == 1
end

-- Whether somebody heard it. Where telling is not permitted, nobody can know: the waiter finds out when it asks.
local function tell(contact, message)
  local verb = string.sub(contact, 1, 1) == 'S' and 'SPUBLISH' or 'PUBLISH'
  -- SAFETY RULE (design §8): this server's clients alone hear it. A replica would tell its own, of grants too that are taken
  -- back because nobody here heard them: those of a primary that was demoted still wait there.
  local is_ours_alone = pcall(redis.set_repl, redis.REPL_NONE)
  local heard = redis.pcall(verb, string.sub(contact, 2), message)
  if is_ours_alone then
    redis.set_repl(redis.REPL_ALL)
  end
  return type(heard) == 'table' or heard > 0
end

-- Gives the lease to the first in line who is alive, and tells it, unless it is among those `asking`. Those who let their
-- deadline pass, or whose connection is gone, are dropped, and so is who is `leaving`. Gives who has it, or false: then it
-- is free; or nothing where the first in line asks for a fence whose counter was not given: it stays where it is.
local function hand_over(asking, leaving)
  -- First of all what may not be permitted: a script that fails leaves what it has done until then.
  local now = now_micros()
  if leaving then
    leave(leaving)
  end
  while true do
    local taken = redis.call('ZPOPMIN', LINE, 2)
    local token, place, ticket = taken[1], taken[3], taken[4]
    if not token then
      redis.call('DEL', LEASE)
      return false
    end
    local waiter = said_of(token, place)
    if place and not waiter then
      -- Somebody else has written here, or taken something away.
      redis.call('ZADD', LINE, ticket, place)
    end
    if waiter then
      local deadline, round, expiry, proposal, retention, contact =
        string.match(waiter, '^(%d+):(%d+):(%d+):(%d+):(%d+):(.*)$')
      if deadline and (asking[token] or tonumber(deadline) > now) then
        if proposal ~= '0' and not FENCE then
          redis.call('ZADD', LINE, ticket, token, ticket, place)
          if redis.call('PTTL', LINE) < 0 then
            redis.call('PEXPIRE', LINE, expiry)
          end
          return nil
        end
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

