-- Whoever holds a slot: open attempts, an unknown one until its hold is over, a verdict that awaits
-- its second look, and one whose call goes to the next gateway. `agent_id` is that of an agent with a limit.
SELECT a.id, a.trunk_id, a.campaign_id, a.node, g.id AS agent_id
FROM attempts a
JOIN calls c ON c.id = a.call_id
LEFT JOIN agents g ON g.id = c.agent_id AND g.max_concurrent_calls IS NOT NULL
WHERE a.status IN ('queued', 'initiated', 'ringing', 'in-progress')
   OR (a.status = 'unknown' AND a.hold_until > now())
   OR (a.status = 'withdrawn' AND a.hold_until IS NOT NULL)
   OR a.hands_over
