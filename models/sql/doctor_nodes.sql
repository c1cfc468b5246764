-- How long ago each node's listener last said that it hears; NULL: it is deaf.
SELECT name, extract(epoch FROM clock_timestamp() - heard_at) AS heard_ago FROM nodes
