-- The waiting of these attempts is over. The call of each, if it
-- still waits, is due again (`again`), or ends as the attempt did.
--   ids  uuid[]   again  bool[]   delay  interval
WITH ended AS (
  UPDATE attempts a SET hands_over = false
  FROM unnest(%(ids)s::uuid[], %(again)s::bool[]) AS w (id, again)
  WHERE a.id = w.id AND a.hands_over
  RETURNING a.id, a.call_id, a.status, a.disposition, a.explanation, a.sip_code, a.q850_cause, a.ended_at, w.again
)
UPDATE calls c
SET status = CASE WHEN e.again THEN 'scheduled' ELSE e.status END,
    due_at = CASE WHEN e.again THEN now() + %(delay)s::interval ELSE c.due_at END,
    disposition = CASE WHEN e.again THEN NULL ELSE e.disposition END,
    explanation = CASE WHEN e.again THEN NULL ELSE e.explanation END,
    sip_code = e.sip_code, q850_cause = e.q850_cause,
    ended_at = CASE WHEN e.again THEN NULL ELSE e.ended_at END, updated_at = now()
FROM ended e
WHERE c.id = e.call_id AND c.current_attempt_id = e.id AND c.status = 'scheduled'
