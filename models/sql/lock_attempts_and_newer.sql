-- As lock_attempts, and with them the current attempts of their calls where a verdict has withdrawn one of ours:
-- if it turns out to live, the newer one has to give way, and locks are taken in the order of ids or deadlock.
--   ids  uuid[]
SELECT id, call_id, node, status, disposition, explanation, sip_code, q850_cause, agent_status, hangup_by, stop_requested_at,
       hold_until, initiated_at, channel_at, ringing_at, answered_at, ended_at
FROM attempts
WHERE id IN (
  SELECT unnest(%(ids)s::uuid[])
  UNION
  SELECT c.current_attempt_id FROM attempts a JOIN calls c ON c.id = a.call_id
  WHERE a.id = ANY (%(ids)s::uuid[]) AND a.status = 'withdrawn'
)
ORDER BY id
FOR UPDATE
