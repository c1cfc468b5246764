-- What the other parts are held against.
SELECT (SELECT text FROM asterisk_doctor) AS text,
       (SELECT ledger FROM asterisk_doctor) AS ledger,
       (SELECT coalesce(sum(max_concurrent_calls), 0) FROM trunks WHERE is_active) AS trunk_slots,
       (SELECT array_agg(g.gateway_address ORDER BY g.gateway_address)
        FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id WHERE t.is_active) AS gateways,
       (SELECT g.id FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id WHERE t.is_active LIMIT 1) AS gateway_id,
       (SELECT count(*) FROM attempts WHERE status = 'queued') AS queued,
       (SELECT extract(epoch FROM clock_timestamp() - min(queued_at)) FROM attempts WHERE status = 'queued') AS oldest_queued
