-- A campaign's (NULL: all) attempts that were claimed and of which nothing was heard since.
SELECT id, node FROM attempts
WHERE (%(campaign)s::uuid IS NULL OR campaign_id = %(campaign)s::uuid) AND status = 'initiated' AND channel_at IS NULL
ORDER BY id
