-- Counts Originates that a node did not take, and lets it rest that takes none: after so many in a row and over so long, and
-- again after each trial that fails, each time twice as long. What was claimed before the rest was over is no trial.
--   node  text   ids  uuid[]: the attempts   error  text   rest_after  int   failing_for, first_rest, longest_rest  interval
WITH counted AS MATERIALIZED (
  SELECT h.node, h.failures + cardinality(%(ids)s::uuid[]) AS failures, h.rests,
         CASE WHEN h.failures = 0 THEN clock_timestamp() ELSE h.failing_since END AS failing_since,
         CASE WHEN h.rests = 0
           THEN h.failures > 0 AND h.failures + cardinality(%(ids)s::uuid[]) >= %(rest_after)s
                AND h.failing_since <= clock_timestamp() - %(failing_for)s::interval
           ELSE h.rests_until <= clock_timestamp()
                AND h.rests_until <= (SELECT max(initiated_at) FROM attempts WHERE id = ANY (%(ids)s::uuid[])) END AS tires
  FROM node_health h WHERE h.node = %(node)s FOR UPDATE OF h
)
UPDATE node_health h
SET failures = c.failures, failing_since = c.failing_since, last_failure = %(error)s, last_failure_at = clock_timestamp(),
    rests = CASE WHEN c.tires THEN c.rests + 1 ELSE c.rests END,
    rests_until = CASE WHEN c.tires
      THEN clock_timestamp() + least(%(longest_rest)s::interval, %(first_rest)s::interval * (2 ^ least(c.rests, 20)))
      ELSE h.rests_until END
FROM counted c
WHERE h.node = c.node
RETURNING h.failures, h.rests_until, c.tires
