-- What a probe found; nothing if its gateway is gone by now.
INSERT INTO gateway_probes (gateway_id, probed_at, finding, detail, rtt_ms, seen_as)
SELECT g.id, now(), %(finding)s, %(detail)s, %(rtt_ms)s, %(seen_as)s
FROM trunk_gateways g WHERE g.id = %(gateway)s
ON CONFLICT (gateway_id) DO UPDATE
SET probed_at = excluded.probed_at, finding = excluded.finding, detail = excluded.detail, rtt_ms = excluded.rtt_ms,
    seen_as = excluded.seen_as
