#!lua flags=allow-oom
-- Frees the slots of attempts that are over, at once or after lingering, and wakes the leader.
-- Freeing twice is harmless, and nobody frees another's slot: members are attempt ids. It goes on with no memory left.
--
-- KEYS  1 epoch   2 leases   3 lingering   4 wake (a channel)   then a tombstone an attempt
-- ARGV  1 linger µs (0: at once)   2 tombstone ms   3 the leader's epoch, or '' for anybody else   then the attempt ids
-- Returns how many were held, or -1 when Redis has lost its memory or has an old one (the leader rebuilds from the ledger),
--         or -2 when a newer epoch rules: then nothing was freed
local epoch = redis.call('GET', KEYS[1])
local ours = tonumber(ARGV[3])
if epoch and ours and tonumber(epoch) > ours then return -2 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local linger = tonumber(ARGV[1])
local freed = 0
for at = 4, #ARGV do
  local attempt = ARGV[at]
  redis.call('SET', KEYS[at + 1], 1, 'PX', ARGV[2])  -- also for a rebuild that has read the ledger before the end
  local held = redis.call('HGET', KEYS[2], attempt)
  if held then
    freed = freed + 1
    if linger > 0 then
      redis.call('ZADD', KEYS[3], now + linger, attempt)
    else
      for key in string.gmatch(held, '%S+') do redis.call('ZREM', key, attempt) end
      redis.call('HDEL', KEYS[2], attempt)
      redis.call('ZREM', KEYS[3], attempt)
    end
  end
end
if freed > 0 then redis.call('PUBLISH', KEYS[4], 'freed') end
if not epoch or (ours and tonumber(epoch) < ours) then return -1 end
return freed
