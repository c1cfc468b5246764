-- Verdicts of the node whose second look is due.
SELECT id FROM attempts
WHERE node = %(node)s AND status = 'withdrawn' AND hold_until <= clock_timestamp()
ORDER BY id
