-- A call and its current attempt.
SELECT c.status, a.id AS attempt_id, a.node FROM calls c LEFT JOIN attempts a ON a.id = c.current_attempt_id WHERE c.id = %(call)s
