-- Calls whose fate is not known, by the attempt that they hang on.
--   campaign  uuid or NULL: any   calls  uuid[] or NULL: all
SELECT a.id, a.call_id, a.campaign_id, a.node, a.initiated_at
FROM attempts a
JOIN calls c ON c.id = a.call_id AND c.current_attempt_id = a.id AND c.status = 'unknown'
WHERE a.status = 'unknown'
  AND (%(campaign)s::uuid IS NULL OR a.campaign_id = %(campaign)s::uuid)
  AND (%(calls)s::uuid[] IS NULL OR a.call_id = ANY (%(calls)s::uuid[]))
ORDER BY a.id
