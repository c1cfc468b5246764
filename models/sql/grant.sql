-- Writes the attempts of calls that were picked (and are locked) in this transaction: scheduled → queued.
--   one array a column; tried_gateways: each a list of its own, as text
WITH granted AS (
  INSERT INTO attempts (id, call_id, campaign_id, trunk_id, gateway_id, node, dialed_number, from_number, tried_gateways)
  SELECT w.id, w.call_id, w.campaign_id, w.trunk_id, w.gateway_id, w.node, w.dialed_number, w.from_number, w.tried::uuid[]
  FROM unnest(%(ids)s::uuid[], %(calls)s::uuid[], %(campaigns)s::uuid[], %(trunks)s::uuid[], %(gateways)s::uuid[],
              %(nodes)s::text[], %(dialed_numbers)s::text[], %(from_numbers)s::text[], %(tried_gateways)s::text[])
    AS w (id, call_id, campaign_id, trunk_id, gateway_id, node, dialed_number, from_number, tried)
  RETURNING id, call_id
)
UPDATE calls
SET status = 'queued', current_attempt_id = granted.id, attempts = attempts + 1, updated_at = now(),
    disposition = NULL, explanation = NULL, sip_code = NULL, q850_cause = NULL, ended_at = NULL
FROM granted
WHERE calls.id = granted.call_id
