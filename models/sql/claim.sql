-- The claim (invariant 2): queued → initiated, refused when the grant is void, its campaign is not
-- running, its trunk is off or its call belongs to another attempt by now. Committed before the Originate; a second
-- delivery finds nothing. Locks campaigns first (a pause does), attempts next, calls last, each in the order of ids.
--   ids  uuid[]   void_after  interval
WITH running AS MATERIALIZED (
  SELECT id FROM campaigns
  WHERE id IN (SELECT campaign_id FROM attempts WHERE id = ANY (%(ids)s::uuid[])) AND status = 'running'
  ORDER BY id FOR SHARE
), mine AS MATERIALIZED (
  SELECT id, call_id FROM attempts
  WHERE id = ANY (%(ids)s::uuid[]) AND (campaign_id IS NULL OR campaign_id = ANY (ARRAY(SELECT id FROM running)))
  ORDER BY id FOR UPDATE
), theirs AS MATERIALIZED (
  SELECT id, current_attempt_id, agent_id FROM calls
  WHERE id IN (SELECT call_id FROM mine) AND status = 'queued'
  ORDER BY id FOR UPDATE
), claimed AS (
  UPDATE attempts a
  SET status = 'initiated', initiated_at = clock_timestamp()
  FROM theirs c, trunks t
  WHERE a.id = c.current_attempt_id AND a.id IN (SELECT id FROM mine) AND t.id = a.trunk_id
    AND a.status = 'queued'
    AND a.queued_at > clock_timestamp() - %(void_after)s::interval
    AND t.is_active
  RETURNING a.id, a.call_id, a.trunk_id, a.gateway_id, a.node, a.from_number, c.agent_id, t.max_calls_per_second
), followed AS (
  UPDATE calls SET status = 'initiated', updated_at = now() FROM claimed WHERE calls.id = claimed.call_id
)
SELECT claimed.id, claimed.trunk_id, claimed.gateway_id, claimed.node, claimed.from_number, claimed.max_calls_per_second,
       agents.connect, agents.fallback, agents.max_call_seconds, coalesce(h.failures > 0, false) AS node_ails
FROM claimed JOIN agents ON agents.id = claimed.agent_id LEFT JOIN node_health h ON h.node = claimed.node
