-- Queued attempts whose grant is void by its age: to be withdrawn and granted anew.
--   void_after  interval
SELECT id FROM attempts WHERE status = 'queued' AND queued_at <= clock_timestamp() - %(void_after)s::interval
