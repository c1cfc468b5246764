-- The moments at which claimed attempts may be sent: strictly spaced for each trunk, as near to the wire as we get.
-- A grant has taken its token from the rate that paces the leader; what was delayed since then is put in line again here.
--
-- KEYS  1 epoch   then the line of each trunk (the µs from which the next may be sent)
-- ARGV  1 longest wait µs   then two a trunk: emission interval µs, how many
-- Returns for each attempt, trunk by trunk, the µs to wait, or -1 when that is too long or Redis has lost its memory
local known = redis.call('EXISTS', KEYS[1]) == 1
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local reply = {}
for i = 2, #KEYS do
  local interval, many = tonumber(ARGV[2 * i - 2]), tonumber(ARGV[2 * i - 1])
  local next_at = math.max(tonumber(redis.call('GET', KEYS[i]) or 0), now)
  -- no further than a turn or a rebuild can have set it, or somebody has put the clock back
  next_at = math.min(next_at, now + math.max(tonumber(ARGV[1]) + interval, 1000000))
  for _ = 1, many do
    if known and next_at - now <= tonumber(ARGV[1]) then
      reply[#reply + 1] = next_at - now
      next_at = next_at + interval
    else
      reply[#reply + 1] = -1
    end
  end
  redis.call('SET', KEYS[i], string.format('%.0f', next_at), 'PX', math.ceil((next_at - now) / 1000) + 10000)
end
return reply
