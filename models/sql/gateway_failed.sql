-- Counts failures, and lets a gateway rest that keeps failing: after so many in a row, and again after each trial that
-- fails, each time twice as long. A call that had left before the rest began says nothing new.
--   ids  uuid[]: attempts that ended so   rest_after  int   first_rest, longest_rest  interval
WITH failed AS (
  SELECT gateway_id, count(*) AS failures, max(initiated_at) AS newest, max(ended_at) AS at,
         (array_agg(disposition ORDER BY ended_at DESC))[1] AS disposition
  FROM attempts WHERE id = ANY (%(ids)s::uuid[]) GROUP BY gateway_id
), counted AS MATERIALIZED (
  SELECT h.gateway_id, h.failures + f.failures AS failures, f.at, f.disposition, h.rests, h.rests_until,
         CASE WHEN h.rests_until IS NULL THEN h.failures + f.failures >= %(rest_after)s
              ELSE f.newest >= h.rests_until AND h.rests_until <= clock_timestamp() END AS tires
  FROM gateway_health h JOIN failed f USING (gateway_id)
  ORDER BY h.gateway_id FOR UPDATE OF h
)
UPDATE gateway_health h
SET failures = c.failures, last_failure = c.disposition, last_failure_at = c.at,
    rests = CASE WHEN c.tires THEN c.rests + 1 ELSE c.rests END,
    rests_until = CASE WHEN c.tires
      THEN clock_timestamp() + least(%(longest_rest)s::interval, %(first_rest)s::interval * (2 ^ least(c.rests, 20)))
      ELSE c.rests_until END
FROM counted c
WHERE h.gateway_id = c.gateway_id
RETURNING h.gateway_id, h.rests_until, h.failures, c.disposition, c.tires
