#!lua flags=allow-oom
-- Makes the slots what the ledger says, under the caller's epoch.
--
-- KEYS  1 epoch   2 leases   3 lingering   then the rates that may have been forgotten: they start a second from now
--       then a tombstone an attempt, in ARGV's order: one that was freed since the ledger was read stays so
-- ARGV  1 the caller's epoch   2 lease length µs   3 number of rates
--       then two an attempt that holds a slot: its id, its slots' keys 'k1 k2 k3'
-- Returns 'REBUILT' or 'STALE'
local epoch = redis.call('GET', KEYS[1])
if epoch and tonumber(epoch) > tonumber(ARGV[1]) then return 'STALE' end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local held = redis.call('HGETALL', KEYS[2])
for i = 1, #held, 2 do
  for key in string.gmatch(held[i + 1], '%S+') do redis.call('ZREM', key, held[i]) end
end
redis.call('DEL', KEYS[2], KEYS[3])

local rates = tonumber(ARGV[3])
for i = 4, 3 + rates do
  local tat = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now + 1000000)
  redis.call('SET', KEYS[i], string.format('%.0f', tat), 'PX', 20000)
end
for at = 4, #ARGV, 2 do
  if redis.call('EXISTS', KEYS[4 + rates + (at - 4) / 2]) == 0 then
    for key in string.gmatch(ARGV[at + 1], '%S+') do redis.call('ZADD', key, now + tonumber(ARGV[2]), ARGV[at]) end
    redis.call('HSET', KEYS[2], ARGV[at], ARGV[at + 1])
  end
end
redis.call('SET', KEYS[1], ARGV[1])
return 'REBUILT'
