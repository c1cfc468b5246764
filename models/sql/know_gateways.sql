-- A row of health for gateways that have failed for the first time.
--   ids  uuid[]: attempts that ended so
INSERT INTO gateway_health (gateway_id)
SELECT id FROM trunk_gateways WHERE id IN (SELECT gateway_id FROM attempts WHERE id = ANY (%(ids)s::uuid[])) ORDER BY id
ON CONFLICT DO NOTHING
