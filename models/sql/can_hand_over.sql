-- Of attempts that ended undelivered, those whose call another gateway of the trunk may carry now. The stream must have
-- been heard whole since the claim (else it may have rung unheard).
--   ids  uuid[]
SELECT a.id
FROM attempts a
JOIN calls c ON c.id = a.call_id AND c.current_attempt_id = a.id
JOIN nodes n ON n.name = a.node AND a.initiated_at > n.listening_since
JOIN trunks t ON t.id = a.trunk_id AND t.is_active
LEFT JOIN campaigns p ON p.id = a.campaign_id
WHERE a.id = ANY (%(ids)s::uuid[]) AND (p.id IS NULL OR p.status IN ('running', 'paused'))
  AND EXISTS (
    SELECT FROM trunk_gateways g LEFT JOIN gateway_health h ON h.gateway_id = g.id
    WHERE g.trunk_id = a.trunk_id AND g.id <> a.gateway_id AND g.id <> ALL (a.tried_gateways)
      AND coalesce(h.rests_until, '-infinity') <= clock_timestamp()
  )
