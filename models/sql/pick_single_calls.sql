-- The next due single calls, locked. They go before every campaign. What is in quarantine is picked by itself.
--   from_numbers  text[]: those whose trunk has room   agents  uuid[]: those of a limit that have room   wanted  int
SELECT id, agent_id, phone_number, from_number
FROM calls
WHERE campaign_id IS NULL AND status = 'scheduled' AND due_at <= now() AND from_number = ANY (%(from_numbers)s::text[])
  AND rescues < 2
  AND agent_id NOT IN (SELECT id FROM agents WHERE max_concurrent_calls IS NOT NULL AND id <> ALL (%(agents)s::uuid[]))
ORDER BY due_at, id
LIMIT %(wanted)s
FOR UPDATE SKIP LOCKED
