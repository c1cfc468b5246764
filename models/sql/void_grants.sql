-- Queued attempts whose grant is void by its age: to be withdrawn and granted anew. Locked.
--   void_after  interval
-- What is locked is being claimed or withdrawn at this moment, or its worker is frozen: it holds up nobody else.
SELECT id FROM attempts WHERE status = 'queued' AND queued_at <= clock_timestamp() - %(void_after)s::interval
ORDER BY id FOR UPDATE SKIP LOCKED
