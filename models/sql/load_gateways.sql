-- The gateways of active trunks that do not rest, each trunk's in the order they are tried. One that has rested is on
-- trial, and busy while its one call is on the way.
SELECT g.id, g.trunk_id, h.rests IS NOT NULL AS on_trial,
       h.rests IS NOT NULL AND EXISTS (
         SELECT FROM attempts a
         WHERE a.gateway_id = g.id AND a.status IN ('queued', 'initiated', 'ringing', 'in-progress') AND a.queued_at >= h.rests_until
       ) AS busy
FROM trunk_gateways g
JOIN trunks t ON t.id = g.trunk_id AND t.is_active
LEFT JOIN gateway_health h ON h.gateway_id = g.id AND h.rests > 0
WHERE h.rests IS NULL OR h.rests_until <= clock_timestamp()
ORDER BY g.trunk_id, g.priority, g.id
