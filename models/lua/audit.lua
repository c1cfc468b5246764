-- Makes leases agree with the ledger, without touching what is in the middle of being granted or freed.
--
-- KEYS  1 epoch   2 leases   3 lingering   4 wake (a channel)   then a tombstone an attempt, in ARGV's order
-- ARGV  1 the caller's epoch   2 lease length µs   3 age µs below which no lease is freed for want of a row
--       then two an attempt that holds a slot in the ledger: its id, its slots' keys
-- Returns {'AUDITED', put back, freed, expired before their end was known}, or {'FORGOT'}, {'STALE'}
local epoch = redis.call('GET', KEYS[1])
if not epoch then return {'FORGOT'} end
if tonumber(epoch) ~= tonumber(ARGV[1]) then return {'STALE'} end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local length = tonumber(ARGV[2])
local put_back, freed, expired, open = 0, 0, 0, {}

for at = 4, #ARGV, 2 do
  local attempt, keys = ARGV[at], ARGV[at + 1]
  open[attempt] = true
  local held = redis.call('HGET', KEYS[2], attempt)
  if held then
    local expires = redis.call('ZSCORE', string.match(held, '%S+'), attempt)
    if expires and tonumber(expires) < now then expired = expired + 1 end
    if not expires or tonumber(expires) - now < length / 2 then
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
  local attempt = leases[i]
  if not open[attempt] and not redis.call('ZSCORE', KEYS[3], attempt) then
    local expires = redis.call('ZSCORE', string.match(leases[i + 1], '%S+'), attempt)
    if not expires or now - (expires - length) >= tonumber(ARGV[3]) then
      for key in string.gmatch(leases[i + 1], '%S+') do redis.call('ZREM', key, attempt) end
      redis.call('HDEL', KEYS[2], attempt)
      freed = freed + 1
    end
  end
end
if freed > 0 then redis.call('PUBLISH', KEYS[4], 'audited') end
return {'AUDITED', put_back, freed, expired}
