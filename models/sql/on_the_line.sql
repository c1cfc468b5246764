-- Who is on the line, for an attempt that is up.
--   attempt  text
SELECT attempt_id, call_id, campaign_id, campaign, phone_number, name, variables, from_number, agent, attempt_number, trunk, node, initiated_at
FROM call_context WHERE attempt_id = %(attempt)s
