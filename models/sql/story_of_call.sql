-- A call as it is told to an operator. Its line is the number that a single call is to be made from.
--   call  uuid
SELECT c.id AS call_id, p.name AS campaign, p.status AS campaign_status, p.pause_reason, c.phone_number, c.name, g.name AS agent, c.from_number,
       c.status, c.disposition, c.explanation, c.created_at, c.due_at, c.ended_at, c.due_at > now() AS is_early,
       n.phone_number IS NOT NULL AS is_registered, t.name AS trunk, t.is_active AS trunk_active
FROM calls c
LEFT JOIN agents g ON g.id = c.agent_id
LEFT JOIN campaigns p ON p.id = c.campaign_id
LEFT JOIN phone_numbers n ON n.phone_number = c.from_number
LEFT JOIN trunks t ON t.id = n.trunk_id
WHERE c.id = %(call)s
