-- Takes a slot of every scope for each lease, all of its limits or none; without leases it only looks.
--
-- KEYS  1 epoch   2 leases (hash: attempt → the keys of its slots)   3 lingering (zset: attempt, µs when it is freed)
--       then two a scope: its slots (zset: attempt, µs when the lease expires), its rate (the GCRA's TAT in µs)
-- ARGV  1 the caller's epoch   2 lease length µs   3 number of scopes
--       then three a scope: limit, emission interval µs (0: no rate), burst tolerance µs
--       then three a lease: attempt id, its scopes as 'i,j,k', and whose slots it takes over ('': nobody's; then it
--       needs room, and one whose predecessor holds none any more does too)
-- Returns {'TAKEN', µs after which it is worth asking again (0: when something is freed), how many leases each scope
--         would take now..., 1 or 0 for each lease...}, or {'FORGOT'} when Redis has lost its memory,
--         or {'STALE'} when a newer epoch rules
-- A Redis with no memory left refuses the first write of a grant, and so all of it; looking goes on.
local epoch = redis.call('GET', KEYS[1])
if not epoch or tonumber(epoch) < tonumber(ARGV[1]) then return {'FORGOT'} end
if tonumber(epoch) > tonumber(ARGV[1]) then return {'STALE'} end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local expires = now + tonumber(ARGV[2])
local scopes = tonumber(ARGV[3])

for _, attempt in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  for key in string.gmatch(redis.call('HGET', KEYS[2], attempt) or '', '%S+') do redis.call('ZREM', key, attempt) end
  redis.call('HDEL', KEYS[2], attempt)
  redis.call('ZREM', KEYS[3], attempt)
end

local room, interval, burst, tat, moved = {}, {}, {}, {}, {}
for i = 1, scopes do
  interval[i] = tonumber(ARGV[3 * i + 2])
  burst[i] = tonumber(ARGV[3 * i + 3])
  room[i] = math.max(0, tonumber(ARGV[3 * i + 1]) - redis.call('ZCARD', KEYS[2 * i + 2]))
  -- GCRA: the theoretical arrival time never lies further back than the burst tolerance
  tat[i] = interval[i] > 0 and math.max(tonumber(redis.call('GET', KEYS[2 * i + 3]) or 0), now - burst[i]) or 0
  local furthest = now + math.max(interval[i], 1000000)  -- that a grant or a rebuild can have set it to
  if interval[i] > 0 and tat[i] > furthest then
    tat[i], moved[i] = furthest, true  -- somebody has put the clock back: the trunk must not wait until it is that late again
  end
end

local results, waits = {}, {}
for at = 3 * scopes + 4, #ARGV, 3 do
  local mine, free = {}, true
  local before = ARGV[at + 2]
  local kept = before ~= '' and redis.call('HGET', KEYS[2], before)
  for index in string.gmatch(ARGV[at + 1], '%d+') do
    local i = tonumber(index)
    mine[#mine + 1] = i
    free = free and (kept or room[i] > 0) and (interval[i] == 0 or tat[i] <= now)
  end
  if free then
    local held = {}
    for key in string.gmatch(kept or '', '%S+') do
      redis.call('ZREM', key, before)
      redis.call('ZADD', key, expires, ARGV[at])
      held[#held + 1] = key
    end
    if kept then
      redis.call('HDEL', KEYS[2], before)
      redis.call('ZREM', KEYS[3], before)
    end
    for _, i in ipairs(mine) do
      if not kept then
        local key = KEYS[2 * i + 2]
        redis.call('ZADD', key, expires, ARGV[at])
        held[#held + 1] = key
        room[i] = room[i] - 1
      end
      if interval[i] > 0 then
        tat[i] = tat[i] + interval[i]
        moved[i] = true
      end
    end
    redis.call('HSET', KEYS[2], ARGV[at], table.concat(held, ' '))
  end
  if kept and not free then
    for _, i in ipairs(mine) do waits[i] = true end  -- it needs no room: only a token
  end
  results[#results + 1] = free and 1 or 0
end
for i in pairs(moved) do
  redis.call('SET', KEYS[2 * i + 3], string.format('%.0f', tat[i]), 'PX', math.ceil((tat[i] - now) / 1000) + 10000)
end

local wait = 0
local function worth_asking_in(microseconds)
  if wait == 0 or microseconds < wait then wait = math.max(1, microseconds) end
end
local next_free = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
if next_free[2] then worth_asking_in(next_free[2] - now) end
local reply = {'TAKEN', 0}
for i = 1, scopes do
  if interval[i] > 0 and tat[i] > now and (room[i] > 0 or waits[i]) then worth_asking_in(tat[i] - now) end
  if interval[i] > 0 and room[i] > 0 then
    room[i] = math.min(room[i], math.max(0, math.floor((now - tat[i]) / interval[i]) + 1))
  end
  reply[#reply + 1] = room[i]
end
for _, taken in ipairs(results) do reply[#reply + 1] = taken end
reply[2] = wait
return reply
