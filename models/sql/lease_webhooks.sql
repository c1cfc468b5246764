-- Gives what is due to the workers: for each receiver that has nothing with them, its first few; receivers by lot, so that
-- however many are down, none of the others waits for ever. A loose scan: a receiver with a million that are due costs one step.
--   receiver  text | null: this one only   most_receivers  integer, with those that have something already
--   most  integer, of each   lease  interval
WITH RECURSIVE known AS (
  (SELECT receiver FROM webhook_deliveries
   WHERE given_up_at IS NULL AND receiver >= coalesce(%(receiver)s::text, '') ORDER BY receiver LIMIT 1)
  UNION ALL
  SELECT (SELECT d.receiver FROM webhook_deliveries d
          WHERE d.given_up_at IS NULL AND d.receiver > known.receiver ORDER BY d.receiver LIMIT 1)
  FROM known WHERE known.receiver IS NOT NULL AND %(receiver)s::text IS NULL
), served AS MATERIALIZED (
  SELECT DISTINCT receiver FROM webhook_deliveries WHERE leased_until > now()
), free AS (
  SELECT receiver FROM known
  WHERE receiver = coalesce(%(receiver)s::text, receiver) AND receiver NOT IN (SELECT receiver FROM served)
    AND EXISTS (SELECT FROM webhook_deliveries d
                WHERE d.receiver = known.receiver AND d.given_up_at IS NULL AND d.due_at <= now())
  ORDER BY random() LIMIT greatest(0, %(most_receivers)s - (SELECT count(*) FROM served))
), due AS MATERIALIZED (
  SELECT first.id FROM free, LATERAL (
    SELECT d.id FROM webhook_deliveries d
    WHERE d.receiver = free.receiver AND d.given_up_at IS NULL AND d.due_at <= now()
    ORDER BY d.due_at LIMIT %(most)s FOR UPDATE SKIP LOCKED
  ) first
)
UPDATE webhook_deliveries SET leased_until = now() + %(lease)s::interval
FROM due WHERE webhook_deliveries.id = due.id
RETURNING webhook_deliveries.id, webhook_deliveries.receiver
