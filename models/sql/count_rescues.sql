-- Of attempts that are given back, those whose worker died after it had claimed them, and how many workers have died so
-- with their call in hand. A worker is dead when no session of its name is left; one that is back was merely cut off, and
-- does not count any more. A claim from before this listener has its role says nothing: what ended the session of the one
-- before it (a restart of Postgres, say) may have ended the worker's.
--   ids  uuid[]: locked
WITH dead AS (
  UPDATE attempts a SET rescued_from = e.writer
  FROM call_events e
  WHERE a.id = ANY (%(ids)s::uuid[])
    AND a.initiated_at > (SELECT since FROM roles WHERE name = current_setting('application_name'))
    AND e.call_id = a.call_id AND e.attempt_id = a.id AND e.subject = 'attempt' AND e.from_status = 'queued' AND e.to_status = 'initiated'
    AND starts_with(e.writer, 'trunkline-worker ')
    AND NOT EXISTS (SELECT FROM pg_stat_activity s WHERE s.application_name = e.writer)
  RETURNING a.id, a.call_id, e.writer
), theirs AS MATERIALIZED (
  SELECT id FROM calls WHERE id IN (SELECT call_id FROM dead) ORDER BY id FOR UPDATE
)
UPDATE calls c
SET rescues = 1 + (  -- this reads the attempts as they were before
  SELECT count(DISTINCT b.rescued_from) FROM attempts b
  WHERE b.call_id = c.id AND b.rescued_from <> d.writer
    AND NOT EXISTS (SELECT FROM pg_stat_activity s WHERE s.application_name = b.rescued_from))
FROM dead d JOIN theirs t ON t.id = d.call_id
WHERE c.id = t.id
RETURNING d.id, c.rescues
