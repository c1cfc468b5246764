-- Trunks that were granted a call in the last second.
--   since  uuid: ids below it are older than that by far, and need not be read
SELECT DISTINCT trunk_id FROM attempts
WHERE id >= %(since)s::uuid AND queued_at > clock_timestamp() - interval '1 second'
