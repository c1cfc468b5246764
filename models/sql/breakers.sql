-- Each node's breaker: closed (calls go through), open (it rests) or half-open (one call at a time). `heard_ago`: seconds
-- since its listener last said that it hears it; NULL: it is deaf.
SELECT n.name AS node,
       CASE WHEN coalesce(h.rests, 0) = 0 THEN 'closed' WHEN h.rests_until > clock_timestamp() THEN 'open' ELSE 'half-open' END AS state,
       coalesce(h.failures, 0) AS failures, h.rests_until, h.last_failure,
       extract(epoch FROM clock_timestamp() - n.heard_at)::float8 AS heard_ago
FROM nodes n LEFT JOIN node_health h ON h.node = n.name
ORDER BY n.name
