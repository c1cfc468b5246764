-- The claim (invariant 2): queued → initiated, refused when the grant is void, its campaign is not
-- running or its trunk is off. Committed before the Originate; a second delivery finds nothing.
--   ids  uuid[]   void_after  interval
WITH running AS MATERIALIZED (
  SELECT id FROM campaigns
  WHERE id IN (SELECT campaign_id FROM attempts WHERE id = ANY (%(ids)s::uuid[])) AND status = 'running'
  ORDER BY id FOR SHARE
), mine AS MATERIALIZED (
  SELECT id FROM attempts WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE
), claimed AS (
  UPDATE attempts a
  SET status = 'initiated', initiated_at = clock_timestamp()
  FROM mine, trunks t, calls c
  WHERE a.id = mine.id AND t.id = a.trunk_id AND c.id = a.call_id
    AND a.status = 'queued'
    AND a.queued_at > clock_timestamp() - %(void_after)s::interval
    AND t.is_active
    AND c.status = 'queued' AND c.current_attempt_id = a.id
    AND (a.campaign_id IS NULL OR a.campaign_id IN (SELECT id FROM running))
  RETURNING a.id, a.call_id, a.trunk_id, a.gateway_id, a.node, a.from_number, c.agent_id, t.max_calls_per_second,
            clock_timestamp() - a.queued_at AS age
), followed AS (
  UPDATE calls SET status = 'initiated', updated_at = now() FROM claimed WHERE calls.id = claimed.call_id
)
SELECT claimed.id, claimed.trunk_id, claimed.gateway_id, claimed.node, claimed.from_number, claimed.max_calls_per_second,
       claimed.age, agents.connect
FROM claimed JOIN agents ON agents.id = claimed.agent_id
