-- A campaign's (NULL: all) attempts in some open statuses.
SELECT id FROM attempts
WHERE (%(campaign)s::uuid IS NULL OR campaign_id = %(campaign)s::uuid) AND status = ANY (%(statuses)s::text[])
  AND status IN ('queued', 'initiated', 'ringing', 'in-progress')
ORDER BY id
