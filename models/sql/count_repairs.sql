-- Adds to the counts of what was put right.
--   whats  text[], sorted: whoever counts locks them in this order   times  bigint[]
INSERT INTO repairs (what, times)
SELECT what, times FROM unnest(%(whats)s::text[], %(times)s::bigint[]) AS w (what, times) ORDER BY what
ON CONFLICT (what) DO UPDATE SET times = repairs.times + excluded.times, last_at = clock_timestamp()
