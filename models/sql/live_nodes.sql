-- The nodes with a live listener. No ears, no mouth: the others get no calls.
SELECT name, max_calls FROM nodes WHERE heard_at > now() - %(deaf_after)s::interval ORDER BY name
