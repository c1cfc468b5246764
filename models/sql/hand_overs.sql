-- Attempts that are over and whose slot waits for the next gateway, locked: campaigns, then attempts, then calls.
-- `waits` is false when their call has been canceled, paused or stopped meanwhile.
--   most  int
WITH waiting AS MATERIALIZED (
  SELECT id, campaign_id FROM attempts WHERE hands_over ORDER BY id LIMIT %(most)s
), running AS MATERIALIZED (
  SELECT id FROM campaigns WHERE id IN (SELECT campaign_id FROM waiting) AND status = 'running' ORDER BY id FOR SHARE
), mine AS MATERIALIZED (
  SELECT id, call_id, campaign_id, trunk_id, gateway_id, tried_gateways, node, dialed_number, from_number, status,
         '+' || ltrim(dialed_number, '+') AS phone_number
  FROM attempts
  WHERE id IN (SELECT id FROM waiting) AND hands_over AND (SELECT count(*) FROM running) >= 0  -- those are locked first
  ORDER BY id FOR UPDATE
), theirs AS MATERIALIZED (
  SELECT id, agent_id, current_attempt_id FROM calls WHERE id IN (SELECT call_id FROM mine) AND status = 'scheduled' ORDER BY id FOR UPDATE
)
SELECT m.id, m.call_id, m.campaign_id, c.agent_id, m.trunk_id, m.gateway_id, m.tried_gateways, m.node, m.phone_number, m.dialed_number, m.from_number,
       m.status = 'withdrawn' AS never_left,
       c.id IS NOT NULL AND (m.campaign_id IS NULL OR r.id IS NOT NULL) AS waits
FROM mine m
LEFT JOIN theirs c ON c.current_attempt_id = m.id
LEFT JOIN running r ON r.id = m.campaign_id
ORDER BY m.id
