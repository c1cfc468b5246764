-- The gateways of active trunks, each trunk's in the order they are tried, with what bad is known of them.
--   trunks  uuid[] or NULL: of all
SELECT g.trunk_id, t.name AS trunk, g.gateway_address || coalesce(':' || g.port, '') AS address,
       coalesce(h.failures, 0) AS failures, h.last_failure, coalesce(h.rests, 0) AS rests, h.rests_until,
       coalesce(h.rests_until > clock_timestamp(), false) AS rests_now
FROM trunks t JOIN trunk_gateways g ON g.trunk_id = t.id LEFT JOIN gateway_health h ON h.gateway_id = g.id
WHERE t.is_active AND (%(trunks)s::uuid[] IS NULL OR t.id = ANY (%(trunks)s::uuid[]))
ORDER BY t.name, g.priority, g.id
