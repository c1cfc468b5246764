-- One more try of each, and when the next is due if this one fails or its worker dies.
--   ids  uuid[]   waits  interval[]   lease  interval
UPDATE webhook_deliveries d
SET tries = tries + 1, due_at = clock_timestamp() + taken.wait, leased_until = now() + %(lease)s::interval
FROM unnest(%(ids)s::uuid[], %(waits)s::interval[]) AS taken (id, wait)
WHERE d.id = taken.id
