-- The agents that may have so many calls up at most, of all their campaigns and single calls together.
SELECT id, max_concurrent_calls FROM agents WHERE max_concurrent_calls IS NOT NULL
