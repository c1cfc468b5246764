-- The nodes that take calls: with a live listener (no ears, no mouth) and no rest. One that has rested is on trial, and
-- left out while its one call is on the way.
--   deaf_after  interval
SELECT n.name, n.max_calls, h.node IS NOT NULL AS on_trial
FROM nodes n
LEFT JOIN node_health h ON h.node = n.name AND h.rests > 0
WHERE n.heard_at > now() - %(deaf_after)s::interval
  AND (h.node IS NULL
       OR (h.rests_until <= clock_timestamp()
           AND NOT EXISTS (SELECT FROM attempts a
                           WHERE a.node = n.name AND a.status IN ('queued', 'initiated') AND a.queued_at >= h.rests_until)))
ORDER BY n.name
