-- Queued attempts whose task was not claimed in time: the message may be lost (celery #4354), publish it again.
--   unclaimed_for  interval   void_after  interval
-- What is locked is being claimed or withdrawn at this moment.
UPDATE attempts SET published_at = clock_timestamp()
WHERE id IN (
  SELECT id FROM attempts
  WHERE status = 'queued' AND published_at < clock_timestamp() - %(unclaimed_for)s::interval
    AND queued_at > clock_timestamp() - %(void_after)s::interval
  ORDER BY id FOR UPDATE SKIP LOCKED
)
RETURNING id
