-- Everything that may be dialled from: each registered number of an active trunk with its first gateway.
SELECT n.phone_number, t.id AS trunk_id, g.id AS gateway_id, t.outbound_leading_plus_enabled AS leading_plus,
       t.max_concurrent_calls, t.max_calls_per_second
FROM phone_numbers n
JOIN trunks t ON t.id = n.trunk_id AND t.is_active
CROSS JOIN LATERAL (SELECT id FROM trunk_gateways WHERE trunk_id = t.id ORDER BY priority, id LIMIT 1) g
