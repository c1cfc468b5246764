-- Everything that may be dialled from: each registered number of an active trunk.
SELECT n.phone_number, t.id AS trunk_id, t.outbound_leading_plus_enabled AS leading_plus, t.max_concurrent_calls, t.max_calls_per_second,
       t.allowed_prefixes
FROM phone_numbers n JOIN trunks t ON t.id = n.trunk_id AND t.is_active
