-- What the ledger holds of these attempts, locked in the order of their ids (every writer of several does so).
--   ids  uuid[]
SELECT id, call_id, node, status, disposition, explanation, sip_code, q850_cause, agent_status, hangup_by, stop_requested_at,
       hold_until, initiated_at, channel_at, ringing_at, answered_at, ended_at,
       sip_call_id, last_reply, rx_packets, tx_packets, rx_lost, tx_lost, codec, media_address
FROM attempts
WHERE id = ANY (%(ids)s::uuid[])
ORDER BY id
FOR UPDATE
