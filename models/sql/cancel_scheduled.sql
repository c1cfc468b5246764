-- What a stopped campaign had still to call is canceled, so many at a time: a million in one statement would hold
-- up everybody for longer than a statement may take. Rows in somebody's hands come with the next call.
--   campaign  uuid   most  int
UPDATE calls SET status = 'canceled', disposition = 'canceled', explanation = %(explanation)s, ended_at = now(), updated_at = now()
WHERE id IN (
  SELECT id FROM calls WHERE campaign_id = %(campaign)s AND status = 'scheduled' LIMIT %(most)s FOR UPDATE SKIP LOCKED
)
