-- A campaign's (NULL: all) attempts that may be up, with their nodes.
SELECT id, node FROM attempts WHERE (%(campaign)s::uuid IS NULL OR campaign_id = %(campaign)s::uuid) AND status IN ('initiated', 'ringing', 'in-progress') ORDER BY id
