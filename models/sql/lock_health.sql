-- The health of the gateways of these attempts, locked in the order of the gateways' ids: a batch in which some failed and
-- others live would lock the latter first.
--   ids  uuid[]: attempts
SELECT FROM gateway_health
WHERE gateway_id IN (SELECT gateway_id FROM attempts WHERE id = ANY (%(ids)s::uuid[]))
ORDER BY gateway_id FOR UPDATE
