-- What the ledger says of a campaign that could keep its calls from being dialled.
--   campaign  uuid   unclaimed_for  interval
SELECT
  (SELECT min(due_at) FROM (
     SELECT due_at FROM calls WHERE campaign_id = %(campaign)s AND status = 'scheduled' ORDER BY due_at, id LIMIT 1) next) AS next_due_at,
  (SELECT count(*) FROM attempts WHERE status = 'queued' AND campaign_id = %(campaign)s
     AND queued_at < clock_timestamp() - %(unclaimed_for)s::interval) AS unclaimed,
  (SELECT count(*) FROM attempts WHERE hands_over AND campaign_id = %(campaign)s) AS hand_overs,
  (SELECT count(*) FROM attempts WHERE status = 'unknown' AND hold_until > now() AND campaign_id = %(campaign)s) AS held
