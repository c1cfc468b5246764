-- The gateways of active trunks that are to be probed, and whether what was found last is of the trunk as it is now.
SELECT g.id, g.gateway_address, g.port, t.transport, t.qualify_frequency, t.updated_at,
       coalesce(p.probed_at >= t.updated_at, false) AS still_holds
FROM trunk_gateways g
JOIN trunks t ON t.id = g.trunk_id
LEFT JOIN gateway_probes p ON p.gateway_id = g.id
WHERE t.is_active AND t.qualify_frequency > 0
ORDER BY g.id
