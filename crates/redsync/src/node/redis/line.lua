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

-- How many dead waiters one call drops at most: a server does nothing else meanwhile.
local MOST_DROPPED = 256

-- What is known of the token's waiter, if the member is its place: deadline, round, expiry, fence, retention, contact.
local function waiter_in(member, token)
  if member and string.find(member, token .. '\0', 1, true) == 1 then
    return string.match(member, '^(%d+):(%d+):(%d+):(%d+):(%d+):(.*)$', #token + 2)
  end
end

-- Takes the token out of the line, and says whether it was there.
local function leave(token)
  local ticket = redis.call('ZSCORE', LINE, token)
  if not ticket then
    return false
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', LINE, ticket, ticket)) do
    if waiter_in(member, token) then
      redis.call('ZREM', LINE, member)
    end
  end
  return redis.call('ZREM', LINE, token) == 1
end

-- Whether somebody heard it. Where telling is not permitted, nobody can know: the waiter finds out when it asks.
local function tell(contact, message)
  local verb = string.sub(contact, 1, 1) == 'S' and 'SPUBLISH' or 'PUBLISH'
  -- SAFETY RULE (protocol §7): this server's clients alone hear it. A replica would tell its own, of grants too that are taken
  -- back because nobody here heard them: those of a primary that was demoted still wait there.
  local is_ours_alone = pcall(redis.set_repl, redis.REPL_NONE)
  local heard = redis.pcall(verb, string.sub(contact, 2), message)
  if is_ours_alone then
    redis.set_repl(redis.REPL_ALL)
  end
  return type(heard) == 'table' or heard > 0
end

-- Drops the dead from the head of the line, as many as one call may: those who let their deadline pass and are not `asking`,
-- those who cannot be told by `is_told`, and what is no waiter. Gives the first who is left: its token, its expiry, the fence
-- that is proposed for it and how long that is kept; false if nobody is; or true if dead ones may be left: the caller calls
-- again.
local function first_alive(asking, is_told)
  local now = now_micros()
  local dropped, looked_at = 0, 1
  while dropped < MOST_DROPPED do
    -- One by one costs more, and the first is alive most often.
    local members = redis.call('ZRANGE', LINE, 0, 2 * looked_at - 1)
    if not members[1] then
      return false
    end
    local at = 1
    while members[at] and (members[at + 1] or not members[2]) do
      local token, place = members[at], members[at + 1]
      local is_place = place and string.find(place, token .. '\0', 1, true) == 1
      local deadline = is_place and string.match(place, '^%d+', #token + 2)
      if deadline and (asking[token] or tonumber(deadline) > now) then
        local _, round, expiry, proposal, retention, contact = waiter_in(place, token)
        if round and is_told(token, contact, round, proposal, now) then
          if at > 1 then
            redis.call('ZPOPMIN', LINE, at - 1)
          end
          return token, expiry, proposal, retention
        end
      end
      -- Where the next member is not its place, others have written here, or taken something away.
      at = at + (is_place and 2 or 1)
    end
    redis.call('ZPOPMIN', LINE, at - 1)
    dropped, looked_at = dropped + looked_at, 32
  end
  return true
end

-- Gives the lease to the first in line who is alive, and tells it, unless it is among those `asking`. Those who let their
-- deadline pass, or whose connection is gone, are dropped, and so is who is `leaving`. Gives who has it, or false: then it
-- is free; nothing where the first in line asks for a fence whose counter was not given: it stays where it is; or true where
-- more are dead than one call drops: the lease is as it was.
local function hand_over(asking, leaving)
  -- First of all what may not be permitted: a script that fails leaves what it has done until then.
  redis.call('TIME')
  -- SAFETY RULE (protocol §7): nobody is told of a grant that the server then refuses to write (READONLY, NOREPLICAS, MISCONF). This
  -- changes nothing, and is refused likewise.
  redis.call('ZREM', LINE, '')
  if leaving then
    leave(leaving)
  end
  local deaf, fence = {}, false
  local token, expiry, proposal, retention = first_alive(asking, function(token, contact, round, proposal, now)
    if deaf[contact] and not asking[token] then
      return false
    end
    if proposal ~= '0' and not FENCE then
      return true
    end
    fence = proposal ~= '0' and next_fence(FENCE, proposal, now)
    if asking[token] or contact == '' then
      return true
    end
    local counted = is_fence(fence) and string.format('%.0f', fence) or 0
    deaf[contact] = not tell(contact, round .. ':' .. counted .. ':' .. #token .. ':' .. token .. LEASE)
    return not deaf[contact]
  end)
  if not token then
    redis.call('DEL', LEASE)
  end
  if not token or token == true then
    return token
  end
  if proposal ~= '0' and not FENCE then
    if redis.call('PTTL', LINE) < 0 then
      redis.call('PEXPIRE', LINE, expiry)
    end
    return nil
  end
  redis.call('ZPOPMIN', LINE, 2)
  redis.call('SET', LEASE, token, 'PX', expiry)
  if fence then
    redis.call('SET', FENCE, fence, 'PX', retention)
  end
  return token
end

