-- What is around these attempts, for their explanations. Trunks and gateways may be gone by now. A probe that is old
-- says nothing of a call that ends now. `seen_elsewhere`: our address as other gateways saw it, the newest first.
--   ids  uuid[]
SELECT a.id, t.name AS trunk, t.is_active AS trunk_active, t.auth_type, t.transport, t.media_encryption, t.allow,
       t.outbound_leading_plus_enabled AS leading_plus, t.rtp_symmetric, t.direct_media, a.from_number AS caller_id,
       g.gateway_address || coalesce(':' || g.port, '') AS gateway, p.finding, p.detail, n.sip_address, p.seen_as,
       ARRAY(SELECT o.seen_as FROM gateway_probes o
             JOIN trunk_gateways og ON og.id = o.gateway_id JOIN trunks ot ON ot.id = og.trunk_id
             WHERE p.seen_as IS NULL AND o.seen_as IS NOT NULL
               AND o.probed_at > now() - greatest(interval '10 minutes', make_interval(secs => 3 * ot.qualify_frequency))
             ORDER BY o.probed_at DESC LIMIT 100) AS seen_elsewhere,
       agents.connect AS agent, campaigns.name AS campaign, campaigns.status AS campaign_status
FROM attempts a
JOIN calls c ON c.id = a.call_id
LEFT JOIN agents ON agents.id = c.agent_id
LEFT JOIN campaigns ON campaigns.id = a.campaign_id
LEFT JOIN trunks t ON t.id = a.trunk_id
LEFT JOIN trunk_gateways g ON g.id = a.gateway_id
LEFT JOIN gateway_probes p ON p.gateway_id = a.gateway_id
  AND p.probed_at > now() - greatest(interval '10 minutes', make_interval(secs => 3 * t.qualify_frequency))
LEFT JOIN nodes n ON n.name = a.node
WHERE a.id = ANY (%(ids)s::uuid[])
