-- Says which permissions the user lacks that a lock needs, without changing anything. Each command is called in a way that
-- does nothing, on a key that does not exist; then each of the lock's keys is looked at.
--
-- ARGV[1]  the lease: the lock's name
-- ARGV[2]  the line
-- ARGV[3]  the fence; empty where the caller has nothing to do with fences
-- ARGV[4]  a key of the same slot that nothing is ever kept at
-- Reply    a list of what is missing, in ACL's words: '+zadd' for a command, '~KEY' for a key
-- Called by RedisNode before its first grant to a user that its URL names, and where a server denies something. It takes
-- its keys as arguments: where one of KEYS may not be used, no script is run at all.
local lease, line, fence, none = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local missing = {}

-- 'command', 'key', or nil: what the user may not use. Versions differ in their words.
local function denied(reply)
  local said = type(reply) == 'table' and reply.err
  if not said or not (string.find(said, 'permission') or string.find(said, 'executing the script')) then
    return nil
  end
  return string.find(said, 'run th') and 'command' or 'key'
end

for _, call in ipairs({
  {'get', none}, {'pttl', none}, {'set', none, '', 'XX'}, {'del', none}, {'pexpire', none, 1}, {'time'},
  {'zadd', none, 'XX', 0, 'x'}, {'zrem', none, 'x'}, {'zrank', none, 'x'}, {'zscore', none, 'x'}, {'zcard', none},
  {'zrange', none, 0, 0}, {'zrangebyscore', none, 0, 0}, {'zpopmin', none},
}) do
  if denied(redis.pcall(unpack(call))) == 'command' then
    missing[#missing + 1] = '+' .. call[1]
  end
end
for _, call in ipairs({{'get', lease}, {'zrem', line, ''}, {'get', fence}}) do
  if call[2] ~= '' and denied(redis.pcall(unpack(call))) == 'key' then
    missing[#missing + 1] = '~' .. call[2]
  end
end
return missing
