-- The campaigns that may be dialled for now, those first that have waited longest since their start. One whose agent
-- is down is about to be paused.
--   unreached_limit  int
SELECT c.id, c.agent_id, c.from_numbers, c.max_concurrent_calls
FROM campaigns c LEFT JOIN agent_health h ON h.agent_id = c.agent_id
WHERE c.status = 'running' AND coalesce(h.failures, 0) < %(unreached_limit)s
ORDER BY c.started_at, c.id
