-- Those of these attempts that are queued and in nobody's hand: it waits for no lock.
--   ids  uuid[]
SELECT id FROM attempts WHERE id = ANY (%(ids)s::uuid[]) AND status = 'queued' ORDER BY id FOR UPDATE SKIP LOCKED
