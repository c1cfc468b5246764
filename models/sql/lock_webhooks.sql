-- The deliveries of a task that are still due: what another took meanwhile is not, and what is locked is being taken.
--   ids  uuid[]
SELECT id, call_id, status, at, url, receiver, tries FROM webhook_deliveries
WHERE id = ANY (%(ids)s::uuid[]) AND given_up_at IS NULL AND due_at <= clock_timestamp()
ORDER BY at FOR UPDATE SKIP LOCKED
