-- Agents' failures in a row: calls that were answered and did not reach them, since the last one that did.
-- An agent that is well has nothing written: only a row that counts failures goes back to 0.
--   calls  uuid[]   reached  bool[]   answered_ats  timestamptz[]
WITH met AS (
  SELECT c.agent_id, m.reached, m.answered_at,
         max(m.answered_at) FILTER (WHERE m.reached) OVER (PARTITION BY c.agent_id) AS last_reached
  FROM unnest(%(calls)s::uuid[], %(reached)s::bool[], %(answered_ats)s::timestamptz[]) AS m (call_id, reached, answered_at)
  JOIN calls c ON c.id = m.call_id
), told AS MATERIALIZED (
  SELECT agent_id, bool_or(reached) AS reached, max(answered_at) AS last_at,
         count(*) FILTER (WHERE NOT reached AND (last_reached IS NULL OR answered_at > last_reached)) AS failures
  FROM met GROUP BY agent_id
), well AS (
  UPDATE agent_health h SET failures = 0
  FROM told t WHERE t.agent_id = h.agent_id AND t.failures = 0 AND t.reached AND h.failures > 0
)
INSERT INTO agent_health AS h (agent_id, failures, last_failure_at)
SELECT agent_id, failures, last_at FROM told WHERE failures > 0 ORDER BY agent_id
ON CONFLICT (agent_id) DO UPDATE
SET failures = excluded.failures
      + CASE WHEN (SELECT t.reached FROM told t WHERE t.agent_id = h.agent_id) THEN 0 ELSE h.failures END,
    last_failure_at = excluded.last_failure_at
