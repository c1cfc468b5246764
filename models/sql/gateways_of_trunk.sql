-- The gateways of a trunk in the order they are tried, with what bad is known of them.
--   trunk  uuid
SELECT g.gateway_address || coalesce(':' || g.port, '') AS address, coalesce(h.rests, 0) AS rests, h.rests_until,
       coalesce(h.rests_until > clock_timestamp(), false) AS rests_now, coalesce(h.failures, 0) AS failures, h.last_failure
FROM trunk_gateways g LEFT JOIN gateway_health h ON h.gateway_id = g.id
WHERE g.trunk_id = %(trunk)s
ORDER BY g.priority, g.id
