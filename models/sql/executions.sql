-- Calls as their executions are shown, in no order. The attempt is the one that the call is at, or was at: `at` is a moment on the
-- clock of Postgres, NULL for now. Ids go by the clock of whoever granted them, so attempts are taken by their `queued_at`.
--   ids  uuid[]   at  timestamptz or NULL
SELECT c.id, c.agent_id, c.campaign_id, c.status, c.phone_number, c.name, c.variables, c.disposition, c.explanation,
       c.created_at, c.updated_at, coalesce(c.scheduled_at, p.scheduled_at) AS scheduled_at,
       coalesce(c.retry_config, p.retry_config) AS retry_config, (c.bypass_call_guardrails OR coalesce(p.bypass_call_guardrails, false)) AS bypass_call_guardrails,
       coalesce(a.from_number, c.from_number) AS from_number,
       CASE WHEN %(at)s::timestamptz IS NULL THEN c.attempts
            ELSE (SELECT count(*) FROM attempts b WHERE b.call_id = c.id AND b.queued_at <= %(at)s::timestamptz) END AS attempts,
       a.status AS attempt_status, a.disposition AS attempt_disposition, a.explanation AS attempt_explanation,
       a.sip_code, a.q850_cause, a.hangup_by, a.sip_call_id, a.initiated_at, a.ringing_at, a.answered_at, a.ended_at
FROM calls c
LEFT JOIN campaigns p ON p.id = c.campaign_id
LEFT JOIN LATERAL (
  SELECT b.* FROM attempts b
  WHERE b.call_id = c.id AND CASE WHEN %(at)s::timestamptz IS NULL THEN b.id = c.current_attempt_id ELSE b.queued_at <= %(at)s::timestamptz END
  ORDER BY b.queued_at DESC, b.id DESC LIMIT 1
) a ON true
WHERE c.id = ANY (%(ids)s::uuid[])
