-- How the outbox stands. Whatever it holds this reads the first so many of an index, and one entry a receiver.
--   most_counted  integer   most_receivers  integer: the oldest of more than these is not looked for
WITH RECURSIVE firsts AS (
  (SELECT receiver, due_at FROM webhook_deliveries WHERE given_up_at IS NULL ORDER BY receiver, due_at LIMIT 1)
  UNION ALL
  SELECT next.receiver, next.due_at FROM firsts, LATERAL (
    SELECT d.receiver, d.due_at FROM webhook_deliveries d
    WHERE d.given_up_at IS NULL AND d.receiver > firsts.receiver ORDER BY d.receiver, d.due_at LIMIT 1
  ) next
)
SELECT (SELECT count(*) FROM (
          SELECT FROM webhook_deliveries WHERE given_up_at IS NULL ORDER BY receiver, due_at LIMIT %(most_counted)s
        ) counted) AS waiting,
       (SELECT greatest(now() - min(due_at), '0') FROM (SELECT due_at FROM firsts LIMIT %(most_receivers)s) looked_at) AS oldest_due,
       (SELECT count(*) FROM (
          SELECT FROM webhook_deliveries WHERE given_up_at IS NOT NULL ORDER BY given_up_at LIMIT %(most_counted)s
        ) counted) AS given_up
