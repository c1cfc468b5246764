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

-- ---------------------------------------------------------------------------------------------
-- Attempts
-- ---------------------------------------------------------------------------------------------

ALTER TABLE attempts
  ADD COLUMN hands_over      boolean NOT NULL DEFAULT false,  -- over, and its slot waits for the attempt by the next gateway
  ADD COLUMN tried_gateways  uuid[] NOT NULL DEFAULT '{}',    -- before this one, in this series
  ADD COLUMN sip_call_id     text,                            -- the Call-ID: what a provider's support asks for
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
  ADD COLUMN sip_address  text;  -- ours, as this node tells it to carriers

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

GRANT SELECT, INSERT, UPDATE, DELETE ON gateway_health, gateway_probes, agent_health TO trunkline_services;
GRANT SELECT ON asterisk_doctor TO trunkline_services, trunkline_asterisk;
GRANT SELECT ON alembic_version TO trunkline_services;
