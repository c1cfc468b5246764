-- Campaigns, locked in the order of their ids: campaigns are locked before attempts, attempts before calls.
--   ids  uuid[]
SELECT id, name, status FROM campaigns WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE
