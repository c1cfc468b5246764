-- What was not delivered: is due later, or is given up if its receiver is gone or the day is over. What else of that day waits
-- for the same receiver is given up with it.
--   ids  uuid[]   errors  text[]   gone  boolean[]   receivers  text[]   try_for  interval
WITH failed AS (
  UPDATE webhook_deliveries d
  SET last_error = f.error, leased_until = NULL,
      given_up_at = CASE WHEN f.gone OR d.due_at > d.at + %(try_for)s::interval THEN clock_timestamp() END
  FROM unnest(%(ids)s::uuid[], %(errors)s::text[], %(gone)s::boolean[]) AS f (id, error, gone)
  WHERE d.id = f.id
)
UPDATE webhook_deliveries
SET given_up_at = clock_timestamp(), leased_until = NULL, last_error = coalesce(last_error, 'its receiver was down all day')
WHERE receiver = ANY (%(receivers)s::text[]) AND given_up_at IS NULL AND at < clock_timestamp() - %(try_for)s::interval
  AND id <> ALL (%(ids)s::uuid[])
