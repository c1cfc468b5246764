-- Writes attempts that are locked and were decided on in this transaction, and moves the call of each
-- that is its call's current one. `follow` false leaves the call as it is: a verdict awaits its second look.
-- A withdrawn attempt gives its call back, due after `delay`; the third that could not be placed ends it. One that hands
-- over keeps its call for the next gateway: `scheduled`, and due by itself only if nobody sees to it for a day.
-- `sign` 'lives' ends what bad is known of its gateway.
--   one array a column; place_limit  int
WITH written AS (
  UPDATE attempts a
  SET status = w.status, disposition = w.disposition, explanation = w.explanation, sip_code = w.sip_code, q850_cause = w.q850_cause,
      agent_status = w.agent_status, hangup_by = w.hangup_by, hold_until = w.hold_until, channel_at = w.channel_at,
      ringing_at = w.ringing_at, answered_at = w.answered_at, ended_at = w.ended_at, sip_call_id = w.sip_call_id,
      last_reply = w.last_reply, rx_packets = w.rx_packets, tx_packets = w.tx_packets, rx_lost = w.rx_lost, tx_lost = w.tx_lost, codec = w.codec,
      media_address = w.media_address,
      hands_over = w.status IN ('failed', 'withdrawn') AND (a.hands_over OR w.hands_over)
  FROM unnest(%(ids)s::uuid[], %(statuses)s::text[], %(dispositions)s::text[], %(explanations)s::text[], %(sip_codes)s::int[],
              %(q850_causes)s::int[], %(agent_statuses)s::text[], %(hangup_bys)s::text[], %(hold_untils)s::timestamptz[],
              %(channel_ats)s::timestamptz[], %(ringing_ats)s::timestamptz[], %(answered_ats)s::timestamptz[],
              %(ended_ats)s::timestamptz[], %(sip_call_ids)s::text[], %(last_replies)s::int[], %(rx_packets)s::int[], %(tx_packets)s::int[],
              %(rx_lost)s::int[], %(tx_lost)s::int[], %(codecs)s::text[], %(media_addresses)s::text[],
              %(follows)s::bool[], %(delays)s::interval[], %(hands_overs)s::bool[], %(signs)s::text[])
    AS w (id, status, disposition, explanation, sip_code, q850_cause, agent_status, hangup_by, hold_until, channel_at,
          ringing_at, answered_at, ended_at, sip_call_id, last_reply, rx_packets, tx_packets, rx_lost, tx_lost, codec, media_address,
          follow, delay, hands_over, sign)
  WHERE a.id = w.id
  RETURNING a.id, a.call_id, a.status, a.disposition, a.explanation, a.sip_code, a.q850_cause, a.ended_at, a.gateway_id,
            a.hands_over, w.follow, w.delay, w.sign
), recovering AS MATERIALIZED (
  SELECT gateway_id FROM gateway_health
  WHERE failures > 0 AND gateway_id IN (SELECT gateway_id FROM written WHERE sign = 'lives')
  ORDER BY gateway_id FOR UPDATE
), recovered AS (
  UPDATE gateway_health h SET failures = 0, rests = 0, rests_until = NULL FROM recovering r WHERE h.gateway_id = r.gateway_id
), target AS MATERIALIZED (
  SELECT c.id AS call_id, w.id AS attempt_id, w.disposition, w.explanation, w.sip_code, w.q850_cause, w.ended_at, w.delay, w.hands_over,
         CASE WHEN w.disposition = 'not-placed' AND w.status = 'withdrawn' THEN c.not_placed + 1 ELSE c.not_placed END AS not_placed,
         CASE WHEN w.disposition = 'not-placed' AND w.status = 'withdrawn' AND c.not_placed + 1 >= %(place_limit)s THEN 'failed'
              WHEN w.hands_over THEN 'scheduled'
              WHEN w.status <> 'withdrawn' THEN w.status
              WHEN w.disposition = 'canceled' THEN 'canceled'
              ELSE 'scheduled' END AS status
  FROM calls c JOIN written w ON c.id = w.call_id AND c.current_attempt_id = w.id
  WHERE w.follow
  ORDER BY c.id FOR UPDATE OF c
)
UPDATE calls c
SET status = t.status, not_placed = t.not_placed, updated_at = now(),
    disposition = CASE WHEN t.status IN ('scheduled', 'initiated', 'ringing', 'in-progress') THEN NULL ELSE t.disposition END,
    explanation = CASE WHEN t.status IN ('scheduled', 'initiated', 'ringing', 'in-progress') THEN NULL ELSE t.explanation END,
    sip_code = t.sip_code, q850_cause = t.q850_cause,
    ended_at = CASE WHEN t.status IN ('scheduled', 'initiated', 'ringing', 'in-progress') THEN NULL ELSE coalesce(t.ended_at, now()) END,
    due_at = CASE WHEN t.status = 'scheduled' AND t.hands_over THEN now() + interval '1 day'
                  WHEN t.status = 'scheduled' THEN now() + coalesce(t.delay, interval '0') ELSE c.due_at END
FROM target t
WHERE c.id = t.call_id AND (c.status = t.status OR legal_transition('call', c.status, t.status))
