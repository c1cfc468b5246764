-- What the newest probes found wrong with the gateways that this call was tried on.
--   call  uuid
SELECT g.gateway_address || coalesce(':' || g.port, '') AS gateway, p.probed_at, p.finding, p.detail
FROM gateway_probes p JOIN trunk_gateways g ON g.id = p.gateway_id
WHERE p.gateway_id IN (SELECT gateway_id FROM attempts WHERE call_id = %(call)s) AND p.finding <> 'answered'
ORDER BY p.probed_at
