-- Calls and whose they are, locked in the order of their ids. Attempts are locked before calls, never after.
--   ids  uuid[]
SELECT id, current_attempt_id FROM calls WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE
