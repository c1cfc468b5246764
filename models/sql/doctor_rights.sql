-- Which of the rights that the services need are missing, as TABLE RIGHT.
SELECT coalesce(string_agg(name || ' ' || kind, ', '), '') AS missing
FROM (VALUES ('calls', 'SELECT'), ('calls', 'INSERT'), ('calls', 'UPDATE'), ('attempts', 'SELECT'), ('attempts', 'INSERT'),
             ('attempts', 'UPDATE'), ('campaigns', 'UPDATE'), ('nodes', 'UPDATE'), ('roles', 'UPDATE'), ('cel', 'SELECT'),
             ('cel', 'DELETE'), ('trunk_credentials', 'INSERT')) needed (name, kind)
WHERE NOT has_table_privilege(name, kind)
