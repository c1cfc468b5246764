-- Nodes took Originates: what bad is known of them is over.
--   nodes  text[]
WITH ailing AS MATERIALIZED (
  SELECT node, rests > 0 AS rested FROM node_health WHERE node = ANY (%(nodes)s::text[]) AND failures > 0 ORDER BY node FOR UPDATE
)
UPDATE node_health h SET failures = 0, failing_since = NULL, rests = 0, rests_until = NULL
FROM ailing a WHERE h.node = a.node
RETURNING h.node, a.rested
