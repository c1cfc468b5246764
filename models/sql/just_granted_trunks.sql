-- Trunks that were granted a call, or whose call was sent, in the last second: what is sent waits for its turn after the claim.
--   since  uuid: ids below it are older than that by far, and need not be read
SELECT DISTINCT trunk_id FROM attempts
WHERE id >= %(since)s::uuid
  AND (queued_at > clock_timestamp() - interval '1 second' OR initiated_at > clock_timestamp() - interval '2 seconds')
