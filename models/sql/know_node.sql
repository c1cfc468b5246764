-- A row of health for a node that has failed for the first time.
--   node  text
INSERT INTO node_health (node) SELECT name FROM nodes WHERE name = %(node)s ON CONFLICT DO NOTHING
