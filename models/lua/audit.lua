#!lua flags=allow-oom
-- Makes leases agree with the ledger, without touching what is in the middle of being granted or freed.
--
-- KEYS  1 epoch   2 leases   3 lingering   4 wake (a channel)   then a tombstone an attempt, in ARGV's order
-- ARGV  1 the caller's epoch   2 lease length µs   3 age µs below which no lease is freed for want of a row
--       then two an attempt that holds a slot in the ledger: its id, its slots' keys
-- Returns {'AUDITED', put back, freed, expired before their end was known, the young without a row...}, or {'FORGOT'}, {'STALE'}
-- A lease or a lingering slot that lies further ahead than it can was written by a clock that somebody has put back since:
-- it is dated anew. A lease that was taken before one of its scopes had a limit gets its slot of that, too.
local epoch = redis.call('GET', KEYS[1])
if not epoch or tonumber(epoch) < tonumber(ARGV[1]) then return {'FORGOT'} end
if tonumber(epoch) > tonumber(ARGV[1]) then return {'STALE'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local length, youngest = tonumber(ARGV[2]), tonumber(ARGV[3])
local put_back, freed, expired, open = 0, 0, 0, {}
local reply = {'AUDITED', 0, 0, 0}

for at = 4, #ARGV, 2 do
  local attempt, keys = ARGV[at], ARGV[at + 1]
  open[attempt] = true
  local held = redis.call('HGET', KEYS[2], attempt)
  if held then
    local expires = redis.call('ZSCORE', string.match(held, '%S+'), attempt)
    if expires and tonumber(expires) < now then expired = expired + 1 end
    local lacks = false
    for key in string.gmatch(keys, '%S+') do
      if not string.find(' ' .. held .. ' ', ' ' .. key .. ' ', 1, true) then
        held, lacks = held .. ' ' .. key, true
      end
    end
    if lacks then redis.call('HSET', KEYS[2], attempt, held) end
    if lacks or not expires or tonumber(expires) - now < length / 2 or tonumber(expires) - now > length then
      for key in string.gmatch(held, '%S+') do redis.call('ZADD', key, now + length, attempt) end
    end
  elseif redis.call('EXISTS', KEYS[(at - 4) / 2 + 5]) == 0 then
    for key in string.gmatch(keys, '%S+') do redis.call('ZADD', key, now + length, attempt) end
    redis.call('HSET', KEYS[2], attempt, keys)
    put_back = put_back + 1
  end
end

local leases = redis.call('HGETALL', KEYS[2])
for i = 1, #leases, 2 do
  local attempt, keys = leases[i], leases[i + 1]
  local lingers = redis.call('ZSCORE', KEYS[3], attempt)
  if lingers and lingers - now > youngest then redis.call('ZADD', KEYS[3], now, attempt) end
  if not open[attempt] and not lingers then
    local expires = redis.call('ZSCORE', string.match(keys, '%S+'), attempt)
    local age = expires and now - (expires - length)
    if not age or age >= youngest then
      for key in string.gmatch(keys, '%S+') do redis.call('ZREM', key, attempt) end
      redis.call('HDEL', KEYS[2], attempt)
      freed = freed + 1
    else
      if age < 0 then
        for key in string.gmatch(keys, '%S+') do redis.call('ZADD', key, now + length, attempt) end
      end
      reply[#reply + 1] = attempt
    end
  end
end
if freed > 0 then redis.call('PUBLISH', KEYS[4], 'audited') end
reply[2], reply[3], reply[4] = put_back, freed, expired
return reply
