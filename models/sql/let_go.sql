-- Of these attempts, those that have held no slot for some time: whoever ended them has not freed it, or could not.
--   ids  uuid[]   since  interval: whoever ends an attempt frees its slot right after
SELECT id FROM attempts
WHERE id = ANY (%(ids)s::uuid[]) AND ended_at < clock_timestamp() - %(since)s::interval
  AND (status IN ('completed', 'busy', 'no-answer', 'failed', 'canceled')
    OR (status = 'withdrawn' AND hold_until IS NULL) OR (status = 'unknown' AND coalesce(hold_until, '-infinity') <= now()))
  AND NOT hands_over
