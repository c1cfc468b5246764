-- The campaigns that may be dialled for now, those first that have waited longest since their start.
SELECT id, from_numbers, max_concurrent_calls FROM campaigns WHERE status = 'running' ORDER BY started_at, id
