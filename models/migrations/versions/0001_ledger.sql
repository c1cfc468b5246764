-- The ledger. Runs as the owner of the database; the services' role owns nothing.

-- Two roles that nobody logs in as: logins are made members of them by whoever sets the server up.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trunkline_services') THEN
    CREATE ROLE trunkline_services NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'trunkline_asterisk') THEN
    CREATE ROLE trunkline_asterisk NOLOGIN;
  END IF;
END $$;

-- ---------------------------------------------------------------------------------------------
-- Trunks, numbers, agents, nodes
-- ---------------------------------------------------------------------------------------------

CREATE TABLE trunks (
  id                             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name                           text NOT NULL UNIQUE,
  provider                       text,
  auth_type                      text NOT NULL CHECK (auth_type IN ('userpass', 'ip-based')),
  ip_identifiers                 text[] NOT NULL DEFAULT '{}',
  allow                          text NOT NULL DEFAULT 'ulaw,alaw' CHECK (allow ~ '^[a-z0-9]+(,[a-z0-9]+)*$'),
  disallow                       text NOT NULL DEFAULT 'all' CHECK (disallow ~ '^[a-z0-9]+(,[a-z0-9]+)*$'),
  transport                      text NOT NULL DEFAULT 'transport-udp' CHECK (transport IN ('transport-udp', 'transport-tcp', 'transport-tls')),
  direct_media                   boolean NOT NULL DEFAULT false,
  rtp_symmetric                  boolean NOT NULL DEFAULT true,
  force_rport                    boolean NOT NULL DEFAULT true,
  media_encryption               text NOT NULL DEFAULT 'no' CHECK (media_encryption IN ('no', 'sdes')),
  media_encryption_optimistic    boolean NOT NULL DEFAULT false,
  qualify_frequency              integer NOT NULL DEFAULT 60 CHECK (qualify_frequency >= 0),
  inbound_enabled                boolean NOT NULL DEFAULT false CHECK (NOT inbound_enabled),
  outbound_leading_plus_enabled  boolean NOT NULL DEFAULT true,
  is_active                      boolean NOT NULL DEFAULT true,
  max_concurrent_calls           integer NOT NULL DEFAULT 10 CHECK (max_concurrent_calls > 0),
  max_calls_per_second           double precision NOT NULL DEFAULT 10 CHECK (max_calls_per_second > 0),
  allowed_prefixes               text[],  -- NULL: the country codes of its own numbers
  from_user                      text CHECK (from_user ~ '^[A-Za-z0-9._+-]+$'),
  from_domain                    text CHECK (from_domain ~ '^[A-Za-z0-9.-]+$'),
  contact_user                   text CHECK (contact_user ~ '^[A-Za-z0-9._+-]+$'),
  send_pai                       boolean NOT NULL DEFAULT false,
  created_at                     timestamptz NOT NULL DEFAULT now(),
  updated_at                     timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT sdes_needs_tls CHECK (media_encryption = 'no' OR transport = 'transport-tls')
);

CREATE TABLE trunk_gateways (
  id               uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  trunk_id         uuid NOT NULL REFERENCES trunks ON DELETE CASCADE,
  -- the last place before the wire: nothing that could end a SIP URI or start a parameter
  gateway_address  text NOT NULL CHECK (gateway_address ~ '^([A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])$'),
  port             integer CHECK (port BETWEEN 1 AND 65535),  -- NULL: by SRV, else the transport's own
  priority         integer NOT NULL DEFAULT 1 CHECK (priority > 0),
  UNIQUE NULLS NOT DISTINCT (trunk_id, gateway_address, port)
);

CREATE TABLE trunk_credentials (
  trunk_id       uuid PRIMARY KEY REFERENCES trunks ON DELETE CASCADE,
  auth_username  text NOT NULL,
  auth_password  text NOT NULL
);

CREATE TABLE phone_numbers (
  id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  phone_number  text NOT NULL UNIQUE CHECK (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
  trunk_id      uuid NOT NULL REFERENCES trunks ON DELETE CASCADE,
  created_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX phone_numbers_trunk ON phone_numbers (trunk_id);

CREATE TABLE agents (
  id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name        text NOT NULL UNIQUE,
  connect     text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE nodes (
  name             text PRIMARY KEY,
  max_calls        integer NOT NULL CHECK (max_calls > 0),
  listener_epoch   bigint NOT NULL DEFAULT 0,
  heard_at         timestamptz,  -- the listener holds its role and its AMI link is up
  listening_since  timestamptz,  -- since then no event can have been missed
  core_startup     text,         -- Asterisk's own word for when it started
  started_at       timestamptz   -- when that was first seen: what was claimed before, it may have forgotten
);

-- The epoch of a role grows each time its advisory lock changes hands; Redis refuses a lower one.
CREATE TABLE roles (
  name    text PRIMARY KEY,
  epoch   bigint NOT NULL DEFAULT 0,
  holder  text,
  since   timestamptz
);

-- ---------------------------------------------------------------------------------------------
-- Campaigns, calls, attempts
-- ---------------------------------------------------------------------------------------------

CREATE TABLE campaigns (
  id                    uuid PRIMARY KEY,
  name                  text NOT NULL UNIQUE,
  agent_id              uuid NOT NULL REFERENCES agents,
  from_numbers          text[] NOT NULL CHECK (cardinality(from_numbers) > 0),
  status                text NOT NULL DEFAULT 'loading' CHECK (status IN ('loading', 'ready', 'running', 'paused', 'completed', 'stopped')),
  max_concurrent_calls  integer CHECK (max_concurrent_calls > 0),
  header                text NOT NULL DEFAULT '',  -- of the upload, as CSV; its rejected rows are exported under it
  -- of the upload; accepted + rejected + duplicate + suppressed = rows
  rows                  bigint NOT NULL DEFAULT 0,
  accepted              bigint NOT NULL DEFAULT 0,
  rejected              bigint NOT NULL DEFAULT 0,
  duplicate             bigint NOT NULL DEFAULT 0,
  suppressed            bigint NOT NULL DEFAULT 0,
  created_at            timestamptz NOT NULL DEFAULT now(),
  started_at            timestamptz,
  ended_at              timestamptz,
  updated_at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX campaigns_live ON campaigns (id) WHERE status IN ('loading', 'running', 'paused');

CREATE TABLE rejected_rows (
  campaign_id  uuid NOT NULL REFERENCES campaigns ON DELETE CASCADE,
  line_number  bigint NOT NULL,
  kind         text NOT NULL CHECK (kind IN ('rejected', 'duplicate', 'suppressed')),
  reason       text NOT NULL,
  row          text NOT NULL,  -- its text, as CSV, to be mended and uploaded again
  PRIMARY KEY (campaign_id, line_number)
);

-- No foreign keys on the two big tables' hot columns: a million rows of COPY would each look one up.
-- Campaigns and agents that have calls are never deleted; trunks and gateways are, and leave their ids behind.
CREATE TABLE calls (
  id                  uuid PRIMARY KEY,
  campaign_id         uuid,  -- NULL: a single call
  agent_id            uuid NOT NULL,
  phone_number        text NOT NULL CHECK (phone_number ~ '^\+[1-9][0-9]{6,14}$'),
  name                text,
  variables           jsonb NOT NULL DEFAULT '{}',
  from_number         text,  -- of a single call; a campaign's rotate, and each attempt has its own
  line_number         bigint,
  status              text NOT NULL DEFAULT 'scheduled' CHECK (status IN (
                        'scheduled', 'queued', 'initiated', 'ringing', 'in-progress',
                        'completed', 'busy', 'no-answer', 'failed', 'canceled', 'unknown')),
  disposition         text,
  explanation         text,
  sip_code            integer,
  q850_cause          integer,
  due_at              timestamptz NOT NULL DEFAULT now(),
  current_attempt_id  uuid,
  attempts            integer NOT NULL DEFAULT 0,
  not_placed          integer NOT NULL DEFAULT 0,  -- attempts withdrawn because Asterisk could not place them
  created_at          timestamptz NOT NULL DEFAULT now(),
  updated_at          timestamptz NOT NULL DEFAULT now(),
  ended_at            timestamptz
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX calls_recipient ON calls (campaign_id, phone_number);
CREATE INDEX calls_due ON calls (campaign_id, due_at, id) WHERE status = 'scheduled' AND campaign_id IS NOT NULL;
CREATE INDEX calls_due_single ON calls (due_at, id) WHERE status = 'scheduled' AND campaign_id IS NULL;

CREATE TABLE attempts (
  id                 uuid PRIMARY KEY,  -- version 7; the ActionID, the ChannelId and the AOR
  call_id            uuid NOT NULL REFERENCES calls ON DELETE CASCADE,
  campaign_id        uuid,
  trunk_id           uuid NOT NULL,
  gateway_id         uuid NOT NULL,
  node               text NOT NULL,
  -- the last place before the wire
  dialed_number      text NOT NULL CHECK (dialed_number ~ '^\+?[1-9][0-9]{6,14}$'),
  from_number        text NOT NULL CHECK (from_number ~ '^\+[1-9][0-9]{6,14}$'),
  status             text NOT NULL DEFAULT 'queued' CHECK (status IN (
                       'queued', 'initiated', 'ringing', 'in-progress',
                       'completed', 'busy', 'no-answer', 'failed', 'canceled', 'unknown', 'withdrawn')),
  disposition        text,
  explanation        text,
  sip_code           integer,
  q850_cause         integer,
  agent_status       text,
  hangup_by          text CHECK (hangup_by IN ('callee', 'trunkline')),
  stop_requested_at  timestamptz,
  hold_until         timestamptz,  -- an unknown attempt holds its slot until then
  queued_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  initiated_at       timestamptz,
  channel_at         timestamptz,  -- Asterisk made a channel
  ringing_at         timestamptz,
  answered_at        timestamptz,
  ended_at           timestamptz
) WITH (fillfactor = 70);
CREATE INDEX attempts_call ON attempts (call_id);
CREATE INDEX attempts_open ON attempts (node, id) WHERE status IN ('queued', 'initiated', 'ringing', 'in-progress');
CREATE INDEX attempts_held ON attempts (hold_until) WHERE status = 'unknown';
-- A verdict awaits its second look for as long as the call has not been given back.
CREATE INDEX attempts_withdrawn ON attempts (ended_at) WHERE status = 'withdrawn' AND hold_until IS NOT NULL;
-- Asterisk asks by text; a cast in the view without this index is a sequential scan for each call.
CREATE INDEX attempts_gate ON attempts ((id::text)) WHERE status IN ('initiated', 'ringing', 'in-progress');

-- ---------------------------------------------------------------------------------------------
-- Every transition has a row; the CHECK is made from models/statuses.py
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION legal_transition(subject text, old text, new text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT (subject || ' ' || old || ' ' || new) = ANY (/*LEGAL_EVENTS*/) $$;

CREATE TABLE call_events (
  at           timestamptz NOT NULL DEFAULT clock_timestamp(),
  subject      text NOT NULL,
  call_id      uuid NOT NULL,
  attempt_id   uuid,
  from_status  text NOT NULL,
  to_status    text NOT NULL,
  disposition  text,
  writer       text NOT NULL DEFAULT current_setting('application_name'),
  CONSTRAINT legal_transition CHECK (legal_transition(subject, from_status, to_status))
) PARTITION BY RANGE (at);
CREATE INDEX call_events_call ON call_events (call_id, at);
CREATE TABLE call_events_default PARTITION OF call_events DEFAULT;

-- Makes this month's and the next month's partition; the leader calls it every hour.
CREATE FUNCTION ensure_event_partitions() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
DECLARE
  first date;
BEGIN
  FOR month IN 0..1 LOOP
    first := date_trunc('month', now() AT TIME ZONE 'UTC')::date + make_interval(months => month);
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF call_events FOR VALUES FROM (%L) TO (%L)',
                   'call_events_' || to_char(first, 'YYYY_MM'),
                   first::timestamp AT TIME ZONE 'UTC', (first + interval '1 month')::timestamp AT TIME ZONE 'UTC');
  END LOOP;
END $$;
SELECT ensure_event_partitions();

-- ---------------------------------------------------------------------------------------------
-- campaign_status: writers append deltas, the leader folds them, the view adds both.
-- Exact in every snapshot; no row that all writers queue for; nobody ever counts calls.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE campaign_counts (
  campaign_id  uuid NOT NULL,
  status       text NOT NULL,
  calls        bigint NOT NULL,
  at           timestamptz NOT NULL,
  PRIMARY KEY (campaign_id, status)
);

CREATE TABLE campaign_count_deltas (
  campaign_id  uuid NOT NULL,
  status       text NOT NULL,
  calls        bigint NOT NULL,
  at           timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX campaign_count_deltas_campaign ON campaign_count_deltas (campaign_id);

CREATE FUNCTION count_calls_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
  INSERT INTO campaign_count_deltas (campaign_id, status, calls)
  SELECT campaign_id, status, count(*) FROM added WHERE campaign_id IS NOT NULL GROUP BY campaign_id, status;
  RETURN NULL;
END $$;

CREATE FUNCTION count_calls_deleted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
  INSERT INTO campaign_count_deltas (campaign_id, status, calls)
  SELECT campaign_id, status, -count(*) FROM gone WHERE campaign_id IS NOT NULL GROUP BY campaign_id, status;
  RETURN NULL;
END $$;

CREATE FUNCTION calls_moved() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
  WITH moved AS (
    SELECT n.id, n.campaign_id, n.current_attempt_id, n.disposition, o.status AS left_status, n.status AS reached_status
    FROM was o JOIN now n USING (id) WHERE o.status <> n.status
  ), counted AS (
    INSERT INTO campaign_count_deltas (campaign_id, status, calls)
    SELECT campaign_id, status, sum(n)
    FROM (SELECT campaign_id, left_status AS status, -1 AS n FROM moved UNION ALL SELECT campaign_id, reached_status, 1 FROM moved) both_sides
    WHERE campaign_id IS NOT NULL GROUP BY campaign_id, status HAVING sum(n) <> 0
  )
  INSERT INTO call_events (subject, call_id, attempt_id, from_status, to_status, disposition)
  SELECT 'call', id, current_attempt_id, left_status, reached_status, disposition FROM moved;
  RETURN NULL;
END $$;

CREATE FUNCTION attempts_moved() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
  INSERT INTO call_events (subject, call_id, attempt_id, from_status, to_status, disposition)
  SELECT 'attempt', n.call_id, n.id, o.status, n.status, n.disposition
  FROM was o JOIN now n USING (id) WHERE o.status <> n.status;
  RETURN NULL;
END $$;

CREATE TRIGGER calls_inserted AFTER INSERT ON calls REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION count_calls_inserted();
CREATE TRIGGER calls_deleted AFTER DELETE ON calls REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_calls_deleted();
CREATE TRIGGER calls_updated AFTER UPDATE ON calls REFERENCING OLD TABLE AS was NEW TABLE AS now FOR EACH STATEMENT EXECUTE FUNCTION calls_moved();
CREATE TRIGGER attempts_updated AFTER UPDATE ON attempts REFERENCING OLD TABLE AS was NEW TABLE AS now FOR EACH STATEMENT EXECUTE FUNCTION attempts_moved();

CREATE VIEW campaign_status AS
SELECT c.id AS campaign_id, c.name, c.status,
       s.total, s.scheduled, s.queued, s.initiated, s.ringing, s.in_progress,
       s.completed, s.busy, s.no_answer, s.failed, s.canceled, s.unknown,
       c.rejected + c.duplicate + c.suppressed AS rejected_rows,
       greatest(c.updated_at, s.at) AS updated_at
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

-- ---------------------------------------------------------------------------------------------
-- What Asterisk reads. Its realtime splits a value at ';' and decodes ^XX, so both are encoded.
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION realtime_value(value text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT replace(replace(value, '^', '^5E'), ';', '^3B') $$;

CREATE VIEW ps_endpoints AS
SELECT g.id::text AS id, t.transport, ''::text AS aors,
       CASE t.auth_type WHEN 'userpass' THEN t.id::text END AS outbound_auth,
       'trunkline-endpoint'::text AS context,
       t.disallow, t.allow,
       CASE WHEN t.direct_media THEN 'yes' ELSE 'no' END AS direct_media,
       CASE WHEN t.rtp_symmetric THEN 'yes' ELSE 'no' END AS rtp_symmetric,
       CASE WHEN t.force_rport THEN 'yes' ELSE 'no' END AS force_rport,
       t.media_encryption,
       CASE WHEN t.media_encryption_optimistic THEN 'yes' ELSE 'no' END AS media_encryption_optimistic,
       t.from_user, t.from_domain, t.contact_user,
       CASE WHEN t.send_pai THEN 'yes' ELSE 'no' END AS send_pai,
       'user'::text AS redirect_method,
       ''::text AS mailboxes
FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id
WHERE t.is_active;

CREATE VIEW ps_auths AS
SELECT trunk_id::text AS id, 'userpass'::text AS auth_type,
       realtime_value(auth_username) AS username, realtime_value(auth_password) AS password
FROM trunk_credentials;

-- The gate (invariant 2): an AOR an attempt, there only while the attempt may be dialled.
CREATE VIEW ps_aors AS
SELECT a.id::text AS id,
       'sip:' || a.dialed_number || '@' || g.gateway_address || coalesce(':' || g.port, '')
         || CASE t.transport WHEN 'transport-tcp' THEN '^3Btransport=tcp' WHEN 'transport-tls' THEN '^3Btransport=tls' ELSE '' END
         AS contact
FROM attempts a
JOIN trunk_gateways g ON g.id = a.gateway_id
JOIN trunks t ON t.id = g.trunk_id
WHERE a.status IN ('initiated', 'ringing', 'in-progress');

-- Who is on the line: for local agents and, encoded, for the dialplan.
CREATE VIEW call_context AS
SELECT a.id::text AS attempt_id, c.id::text AS call_id, c.campaign_id::text AS campaign_id, p.name AS campaign,
       c.phone_number, c.name, c.variables, a.from_number, g.name AS agent
FROM attempts a
JOIN calls c ON c.id = a.call_id
JOIN agents g ON g.id = c.agent_id
LEFT JOIN campaigns p ON p.id = c.campaign_id
WHERE a.status IN ('initiated', 'ringing', 'in-progress');

CREATE VIEW asterisk_call_context AS
SELECT attempt_id, call_id, campaign_id, realtime_value(campaign) AS campaign, phone_number,
       realtime_value(name) AS name, realtime_value(variables::text) AS variables, from_number, realtime_value(agent) AS agent
FROM call_context;

-- Asterisk's own ledger (cel_pgsql)
CREATE TABLE cel (
  eventtype  text,
  eventtime  timestamptz,
  uniqueid   text,
  linkedid   text,
  channame   text,
  extra      text
);
CREATE INDEX cel_uniqueid ON cel (uniqueid);
CREATE INDEX cel_eventtime ON cel USING brin (eventtime);

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

GRANT USAGE ON SCHEMA public TO trunkline_services, trunkline_asterisk;
GRANT SELECT, INSERT, UPDATE, DELETE ON trunks, trunk_gateways, phone_numbers, agents, nodes, roles, campaigns, rejected_rows,
      calls, attempts, campaign_counts, campaign_count_deltas TO trunkline_services;
GRANT SELECT, DELETE ON cel TO trunkline_services;
GRANT SELECT ON call_events, campaign_status, call_context TO trunkline_services;
-- Written, never read back: no answer, log, task or error can show what cannot be selected.
GRANT INSERT, UPDATE, DELETE, SELECT (trunk_id) ON trunk_credentials TO trunkline_services;
GRANT SELECT ON ps_endpoints, ps_auths, ps_aors, asterisk_call_context TO trunkline_asterisk;
GRANT SELECT, INSERT ON cel TO trunkline_asterisk;
REVOKE EXECUTE ON FUNCTION ensure_event_partitions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_event_partitions() TO trunkline_services;
