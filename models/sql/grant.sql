-- Writes the attempts of calls that were picked (and are locked) in this transaction: scheduled → queued.
--   one array a column
WITH granted AS (
  INSERT INTO attempts (id, call_id, campaign_id, trunk_id, gateway_id, node, dialed_number, from_number)
  SELECT * FROM unnest(%(ids)s::uuid[], %(calls)s::uuid[], %(campaigns)s::uuid[], %(trunks)s::uuid[], %(gateways)s::uuid[],
                       %(nodes)s::text[], %(dialed_numbers)s::text[], %(from_numbers)s::text[])
  RETURNING id, call_id
)
UPDATE calls
SET status = 'queued', current_attempt_id = granted.id, attempts = attempts + 1, updated_at = now(),
    disposition = NULL, explanation = NULL, sip_code = NULL, q850_cause = NULL, ended_at = NULL
FROM granted
WHERE calls.id = granted.call_id
