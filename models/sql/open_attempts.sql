-- Whoever holds a slot: open attempts, an unknown one until its hold is over, a verdict that awaits
-- its second look, and one whose call goes to the next gateway.
SELECT a.id, a.trunk_id, a.campaign_id, a.node
FROM attempts a
WHERE a.status IN ('queued', 'initiated', 'ringing', 'in-progress')
   OR (a.status = 'unknown' AND a.hold_until > now())
   OR (a.status = 'withdrawn' AND a.hold_until IS NOT NULL)
   OR a.hands_over
