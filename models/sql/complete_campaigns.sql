-- A running or paused campaign all of whose calls are final is completed. Reads counts, never calls.
UPDATE campaigns c
SET status = 'completed', ended_at = now(), updated_at = now()
FROM campaign_status s
WHERE c.id = s.campaign_id AND c.status IN ('running', 'paused')
  AND s.scheduled + s.queued + s.initiated + s.ringing + s.in_progress = 0
RETURNING c.name
