-- Of these campaigns, which are locked, those all of whose calls are final are completed. Reads counts, never calls.
--   ids  uuid[]
UPDATE campaigns c
SET status = 'completed', ended_at = now(), updated_at = now()
FROM campaign_status s
WHERE c.id = ANY (%(ids)s::uuid[]) AND c.id = s.campaign_id AND c.status IN ('running', 'paused')
  AND s.scheduled + s.queued + s.initiated + s.ringing + s.in_progress = 0
RETURNING c.name
