-- Running and paused campaigns all of whose calls seem to be final, locked. An operator may have given one more to
-- call meanwhile: what is read after this is so. One that is locked, by an operator or a frozen worker, comes with the next.
SELECT c.id
FROM campaigns c JOIN campaign_status s ON s.campaign_id = c.id
WHERE c.status IN ('running', 'paused') AND s.scheduled + s.queued + s.initiated + s.ringing + s.in_progress = 0
ORDER BY c.id FOR UPDATE OF c SKIP LOCKED
