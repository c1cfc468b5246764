-- The next due calls of each campaign, locked, campaign after campaign until there are `most`. A campaign that is no longer
-- running gives none, and stays as it is until this transaction ends (pause waits for it). What is in quarantine is picked by itself.
--   campaigns  uuid[]: whose turn it is first   wanted  int[]: of each   most  int
WITH running AS MATERIALIZED (
  SELECT id FROM campaigns WHERE id = ANY (%(campaigns)s::uuid[]) AND status = 'running' ORDER BY id FOR SHARE
)
SELECT due.id, due.campaign_id, due.agent_id, due.phone_number
FROM (
  SELECT w.campaign_id, w.wanted
  FROM unnest(%(campaigns)s::uuid[], %(wanted)s::int[]) WITH ORDINALITY AS w (campaign_id, wanted, turn)
  JOIN running ON running.id = w.campaign_id
  ORDER BY w.turn
) w
CROSS JOIN LATERAL (
  SELECT id, campaign_id, agent_id, phone_number
  FROM calls
  WHERE calls.campaign_id = w.campaign_id AND status = 'scheduled' AND due_at <= now() AND rescues < 2
  ORDER BY due_at, id
  LIMIT w.wanted
  FOR UPDATE SKIP LOCKED
) due
LIMIT %(most)s
