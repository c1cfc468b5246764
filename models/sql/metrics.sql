-- What the ledger has to say to a monitor, in one snapshot: a metric, its labels' values, its value. Nodes' breakers are
-- read as everybody reads them (`breakers.sql`).
SELECT 'repairs' AS metric, ARRAY[what] AS labels, times::float8 AS value FROM repairs
UNION ALL
SELECT 'role_epoch', ARRAY[name], epoch FROM roles
UNION ALL
SELECT 'node_slots', ARRAY[name], max_calls FROM nodes
UNION ALL
SELECT 'trunk_slots', ARRAY[name, id::text], max_concurrent_calls FROM trunks WHERE is_active
UNION ALL
SELECT 'gateway_resting', ARRAY[t.name, g.gateway_address || coalesce(':' || g.port, '')], coalesce(h.rests_until > now(), false)::int
FROM trunks t JOIN trunk_gateways g ON g.trunk_id = t.id LEFT JOIN gateway_health h ON h.gateway_id = g.id
WHERE t.is_active
UNION ALL
SELECT 'attempts_open', ARRAY[status], count(*)
FROM attempts WHERE status IN ('queued', 'initiated', 'ringing', 'in-progress') GROUP BY status
UNION ALL
SELECT 'attempts_held', '{}', count(*) FROM attempts WHERE status = 'unknown' AND hold_until > now()
