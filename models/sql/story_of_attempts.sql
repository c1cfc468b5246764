-- The attempts of a call in their order (ids go by the clock of whoever granted them). Trunks and gateways may be gone by now.
--   call  uuid
SELECT a.id AS attempt_id, a.call_id, t.name AS trunk, g.gateway_address || coalesce(':' || g.port, '') AS gateway, a.node, a.from_number,
       a.dialed_number, a.status, a.disposition, a.sip_code, a.q850_cause, a.last_reply, a.agent_status, a.hangup_by, a.explanation,
       a.queued_at, a.initiated_at, a.channel_at, a.ringing_at, a.answered_at, a.ended_at, a.hold_until,
       a.sip_call_id, a.codec, a.media_address, a.rx_packets, a.tx_packets, a.rx_lost, a.tx_lost
FROM attempts a
LEFT JOIN trunks t ON t.id = a.trunk_id
LEFT JOIN trunk_gateways g ON g.id = a.gateway_id
WHERE a.call_id = %(call)s
ORDER BY a.queued_at, a.id
