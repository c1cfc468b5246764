-- Folds what writers have appended into one row a campaign and status. Only the leader runs it.
WITH folded AS (
  DELETE FROM campaign_count_deltas RETURNING campaign_id, status, calls, at
)
INSERT INTO campaign_counts (campaign_id, status, calls, at)
SELECT campaign_id, status, sum(calls), max(at) FROM folded GROUP BY campaign_id, status
ON CONFLICT (campaign_id, status) DO UPDATE
SET calls = campaign_counts.calls + excluded.calls, at = greatest(campaign_counts.at, excluded.at)
