-- Running campaigns whose agent was not reached by so many answered calls in a row, locked in the order of their ids.
--   limit  int
SELECT c.id, c.name, g.name AS agent, g.connect, h.failures
FROM campaigns c JOIN agents g ON g.id = c.agent_id JOIN agent_health h ON h.agent_id = g.id
WHERE c.status = 'running' AND h.failures >= %(limit)s
ORDER BY c.id FOR UPDATE OF c
