-- Takes one rate token, for a grant that waited too long to be claimed.
--
-- KEYS  1 epoch   2 rate   ARGV  1 emission interval µs   2 burst tolerance µs
-- Returns 1, or 0 when there is none or Redis has lost its memory
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local tat = math.max(tonumber(redis.call('GET', KEYS[2]) or 0), now - tonumber(ARGV[2]))
if tat > now then return 0 end
tat = tat + tonumber(ARGV[1])
redis.call('SET', KEYS[2], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 10000)
return 1
