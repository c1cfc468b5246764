-- The next due call of those that may kill their worker (two have died with it in hand), locked: in quarantine, one of
-- them is in somebody's hand at a time, so that whoever died along with another is told from it.
--   campaigns  uuid[], from_numbers  text[], agents  uuid[] (of those of a limit): those that have room   alone_for  interval
WITH running AS MATERIALIZED (
  SELECT id FROM campaigns WHERE id = ANY (%(campaigns)s::uuid[]) AND status = 'running' ORDER BY id FOR SHARE
)
SELECT id, campaign_id, agent_id, phone_number, from_number
FROM calls
WHERE rescues >= 2 AND status = 'scheduled' AND due_at <= now()
  AND (campaign_id IN (SELECT id FROM running) OR (campaign_id IS NULL AND from_number = ANY (%(from_numbers)s::text[])))
  AND agent_id NOT IN (SELECT id FROM agents WHERE max_concurrent_calls IS NOT NULL AND id <> ALL (%(agents)s::uuid[]))
  AND NOT EXISTS (
    SELECT FROM calls h JOIN attempts a ON a.id = h.current_attempt_id
    WHERE h.rescues >= 2
      AND (h.status = 'queued' OR (h.status = 'initiated' AND a.initiated_at > clock_timestamp() - %(alone_for)s::interval))
  )
ORDER BY due_at, id
LIMIT 1
FOR UPDATE SKIP LOCKED
