-- Everything that the ledger has to say to a monitor, in one snapshot: a metric, its labels' values, its value.
--   deaf_after  interval
SELECT 'repairs' AS metric, ARRAY[what] AS labels, times::float8 AS value FROM repairs
UNION ALL
SELECT 'role_epoch', ARRAY[name], epoch FROM roles
UNION ALL
SELECT 'node_heard', ARRAY[name], coalesce(heard_at > now() - %(deaf_after)s::interval, false)::int FROM nodes
UNION ALL
SELECT 'node_breaker', ARRAY[n.name, s.state],
       (s.state = CASE WHEN coalesce(h.rests, 0) = 0 THEN 'closed' WHEN h.rests_until > clock_timestamp() THEN 'open' ELSE 'half-open' END)::int
FROM nodes n LEFT JOIN node_health h ON h.node = n.name CROSS JOIN unnest(ARRAY['closed', 'open', 'half-open']) AS s (state)
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
