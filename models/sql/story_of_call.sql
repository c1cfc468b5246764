-- A call as it is told to an operator. Its line is the number that a single call is to be made from.
--   call  uuid
SELECT c.id AS call_id, p.name AS campaign, p.status AS campaign_status, p.pause_reason, c.phone_number, c.name, g.name AS agent, c.from_number,
       c.status, c.disposition, c.explanation, c.created_at, c.due_at, c.ended_at, c.due_at > now() AS is_early,
       n.phone_number IS NOT NULL AS is_registered, t.name AS trunk, t.is_active AS trunk_active,
       coalesce(a.hands_over, false) AS hands_over,
       t.id IS NOT NULL AND NOT EXISTS (
         SELECT FROM trunk_gateways w LEFT JOIN gateway_health h ON h.gateway_id = w.id
         WHERE w.trunk_id = t.id AND coalesce(h.rests_until, '-infinity') <= now()) AS gateways_rest
FROM calls c
LEFT JOIN agents g ON g.id = c.agent_id
LEFT JOIN campaigns p ON p.id = c.campaign_id
LEFT JOIN phone_numbers n ON n.phone_number = c.from_number
LEFT JOIN trunks t ON t.id = n.trunk_id
LEFT JOIN attempts a ON a.id = c.current_attempt_id
WHERE c.id = %(call)s
