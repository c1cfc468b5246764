-- Several gateways a trunk: failover, rest, probes. What each attempt learned of its call. Agents that are down.

-- ---------------------------------------------------------------------------------------------
-- Gateways
-- ---------------------------------------------------------------------------------------------

-- What the calls themselves show of a gateway; no row is a gateway of which nothing bad is known.
CREATE TABLE gateway_health (
  gateway_id       uuid PRIMARY KEY REFERENCES trunk_gateways ON DELETE CASCADE,
  failures         integer NOT NULL DEFAULT 0,  -- in a row, since its last sign of life
  last_failure     text,                        -- a disposition
  last_failure_at  timestamptz,
  rests            integer NOT NULL DEFAULT 0,  -- in a row: each is longer than the one before
  rests_until      timestamptz                  -- until then it gets no call, after it one at a time
);

-- What our own probes (OPTIONS, every `qualify_frequency` seconds) found last; for people, never for decisions:
-- a carrier that ignores OPTIONS is dialled all the same.
CREATE TABLE gateway_probes (
  gateway_id  uuid PRIMARY KEY REFERENCES trunk_gateways ON DELETE CASCADE,
  probed_at   timestamptz NOT NULL,
  finding     text NOT NULL CHECK (finding IN ('answered', 'silent', 'no-name', 'refused', 'tls-failed')),
  detail      text NOT NULL DEFAULT '',  -- a sentence
  rtt_ms      double precision,          -- of the OPTIONS that was answered
  seen_as     text                       -- our address as the gateway saw it (RFC 3581, received)
);

-- Whose request it is that comes in from one of these addresses. All gateways of a trunk are the same to it, so the first
-- stands for them.
CREATE VIEW ps_endpoint_id_ips AS
SELECT t.id::text AS id,
       (SELECT g.id::text FROM trunk_gateways g WHERE g.trunk_id = t.id ORDER BY g.priority, g.id LIMIT 1) AS endpoint,
       array_to_string(t.ip_identifiers, ',') AS match,
       'no'::text AS srv_lookups
FROM trunks t
WHERE t.is_active AND t.ip_identifiers <> '{}';

-- Far below this Redis cannot hold the time of the next call.
UPDATE trunks SET max_calls_per_second = 0.001 WHERE max_calls_per_second < 0.001;
ALTER TABLE trunks ADD CONSTRAINT trunks_not_too_slow CHECK (max_calls_per_second >= 0.001);

-- ---------------------------------------------------------------------------------------------
-- Attempts
-- ---------------------------------------------------------------------------------------------

ALTER TABLE attempts
  ADD COLUMN hands_over      boolean NOT NULL DEFAULT false,  -- over, and its slot waits for the attempt by the next gateway
  ADD COLUMN tried_gateways  uuid[] NOT NULL DEFAULT '{}',    -- before this one, in this series
  ADD COLUMN sip_call_id     text,                            -- the Call-ID: what a provider's support asks for
  ADD COLUMN last_reply      integer,                         -- the status of the last SIP reply that came; 0: none did
  ADD COLUMN rx_packets      integer,                         -- RTP from the far side, and to it
  ADD COLUMN tx_packets      integer,
  ADD COLUMN rx_lost         integer,                         -- packets, as we counted; as the far side reported (RTCP)
  ADD COLUMN tx_lost         integer,
  ADD COLUMN codec           text,
  ADD COLUMN media_address   text,                            -- HOST:PORT that the audio was sent to
  DROP CONSTRAINT attempts_hangup_by_check,
  -- limit: the longest call was over; trunkline: we ended it and none of the others is known to have asked for it
  ADD CONSTRAINT attempts_hangup_by_check CHECK (hangup_by IN ('callee', 'agent', 'operator', 'limit', 'trunkline'));
CREATE INDEX attempts_hand_over ON attempts (id) WHERE hands_over;

-- ---------------------------------------------------------------------------------------------
-- Agents, campaigns, nodes
-- ---------------------------------------------------------------------------------------------

ALTER TABLE agents
  ADD COLUMN fallback          text,  -- the sound that the person hears when the agent is not reached; NULL: the default
  ADD COLUMN max_call_seconds  integer CHECK (max_call_seconds > 0);  -- NULL: the longest call of the settings

-- What the calls show of an agent; no row is an agent of which nothing bad is known.
CREATE TABLE agent_health (
  agent_id         uuid PRIMARY KEY REFERENCES agents ON DELETE CASCADE,
  failures         integer NOT NULL DEFAULT 0,  -- calls in a row that were answered and did not reach it
  last_failure_at  timestamptz
);

ALTER TABLE campaigns ADD COLUMN pause_reason text;  -- of a pause that nobody typed

ALTER TABLE nodes
  ADD COLUMN version      text,  -- Asterisk's
  ADD COLUMN sip_address  text,  -- ours, as this node tells it to carriers
  ADD COLUMN marks_forgotten_to  timestamptz;  -- the last hour whose marks its Asterisk was told to forget

-- With the reason of a pause that nobody typed.
CREATE OR REPLACE VIEW campaign_status AS
SELECT c.id AS campaign_id, c.name, c.status,
       s.total, s.scheduled, s.queued, s.initiated, s.ringing, s.in_progress,
       s.completed, s.busy, s.no_answer, s.failed, s.canceled, s.unknown,
       c.rejected + c.duplicate + c.suppressed AS rejected_rows,
       greatest(c.updated_at, s.at) AS updated_at,
       c.pause_reason
FROM campaigns c
CROSS JOIN LATERAL (
  SELECT coalesce(sum(calls), 0)::bigint AS total,
         coalesce(sum(calls) FILTER (WHERE status = 'scheduled'), 0)::bigint AS scheduled,
         coalesce(sum(calls) FILTER (WHERE status = 'queued'), 0)::bigint AS queued,
         coalesce(sum(calls) FILTER (WHERE status = 'initiated'), 0)::bigint AS initiated,
         coalesce(sum(calls) FILTER (WHERE status = 'ringing'), 0)::bigint AS ringing,
         coalesce(sum(calls) FILTER (WHERE status = 'in-progress'), 0)::bigint AS in_progress,
         coalesce(sum(calls) FILTER (WHERE status = 'completed'), 0)::bigint AS completed,
         coalesce(sum(calls) FILTER (WHERE status = 'busy'), 0)::bigint AS busy,
         coalesce(sum(calls) FILTER (WHERE status = 'no-answer'), 0)::bigint AS no_answer,
         coalesce(sum(calls) FILTER (WHERE status = 'failed'), 0)::bigint AS failed,
         coalesce(sum(calls) FILTER (WHERE status = 'canceled'), 0)::bigint AS canceled,
         coalesce(sum(calls) FILTER (WHERE status = 'unknown'), 0)::bigint AS unknown,
         max(at) AS at
  FROM (
    SELECT status, calls, at FROM campaign_counts WHERE campaign_id = c.id
    UNION ALL
    SELECT status, calls, at FROM campaign_count_deltas WHERE campaign_id = c.id
  ) parts
) s;

-- Who is on the line, and which of their calls it is: attempts that were taken back before anything left, and
-- those that no gateway delivered, do not count.
CREATE OR REPLACE VIEW call_context AS
SELECT a.id::text AS attempt_id, c.id::text AS call_id, c.campaign_id::text AS campaign_id, p.name AS campaign,
       c.phone_number, c.name, c.variables, a.from_number, g.name AS agent,
       (SELECT 1 + count(*) FROM attempts o
        WHERE o.call_id = a.call_id AND o.id < a.id AND o.status <> 'withdrawn'
          AND (o.ringing_at IS NOT NULL OR o.disposition NOT IN ('congestion', 'gateway-error', 'gateway-unreachable'))) AS attempt_number,
       t.name AS trunk, a.node, a.initiated_at
FROM attempts a
JOIN calls c ON c.id = a.call_id
JOIN agents g ON g.id = c.agent_id
LEFT JOIN campaigns p ON p.id = c.campaign_id
LEFT JOIN trunks t ON t.id = a.trunk_id
WHERE a.status IN ('initiated', 'ringing', 'in-progress');

CREATE OR REPLACE VIEW asterisk_call_context AS
SELECT attempt_id, call_id, campaign_id, realtime_value(campaign) AS campaign, phone_number,
       realtime_value(name) AS name, realtime_value(variables::text) AS variables, from_number, realtime_value(agent) AS agent,
       attempt_number, realtime_value(trunk) AS trunk, node, initiated_at
FROM call_context;

-- ---------------------------------------------------------------------------------------------
-- Events
-- ---------------------------------------------------------------------------------------------

-- Makes this month's and the next month's partition; the leader calls it when it starts and every hour. A month
-- that has rows in the default partition already stays there.
CREATE OR REPLACE FUNCTION ensure_event_partitions() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE
  first date;
BEGIN
  FOR month IN 0..1 LOOP
    first := date_trunc('month', now() AT TIME ZONE 'UTC')::date + make_interval(months => month);
    BEGIN
      EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF call_events FOR VALUES FROM (%L) TO (%L)',
                     'call_events_' || to_char(first, 'YYYY_MM'),
                     first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC');
    EXCEPTION WHEN check_violation THEN
      RAISE WARNING 'call_events of % stay in the default partition', first;
    END;
  END LOOP;
END $$;

-- ---------------------------------------------------------------------------------------------
-- What Asterisk reads
-- ---------------------------------------------------------------------------------------------

-- One row that an Asterisk repeats to `trunkline doctor`: that it reads this database and no other, and in UTF-8.
-- Its letters are in every old encoding of the West, so that one that is set by mistake shows instead of failing.
CREATE VIEW asterisk_doctor AS
SELECT 'doctor'::text AS id, 'Ünïcödé'::text AS text,
       current_database() || ' ' || extract(epoch FROM pg_postmaster_start_time()) AS ledger;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

GRANT SELECT ON ps_endpoint_id_ips TO trunkline_asterisk;
GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_health, gateway_probes, agent_health TO trunkline_services;
GRANT SELECT ON asterisk_doctor TO trunkline_services, trunkline_asterisk;
GRANT SELECT ON alembic_version TO trunkline_services;
