-- Nodes that take no calls, calls that kill their workers, and how often something had to be put right.

-- What our own Originates show of a node, as far as nothing came of them; no row is a node of which nothing bad is known.
CREATE TABLE node_health (
  node             text PRIMARY KEY REFERENCES nodes ON DELETE CASCADE,
  failures         integer NOT NULL DEFAULT 0,  -- Originates in a row that the node did not take
  failing_since    timestamptz,                 -- the first of those
  last_failure     text,                        -- a sentence, as AMI's client says it
  last_failure_at  timestamptz,
  rests            integer NOT NULL DEFAULT 0,  -- in a row: each is longer than the one before
  rests_until      timestamptz                  -- until then it gets no call (the breaker is open), after it one at a time
);

ALTER TABLE calls ADD COLUMN rescues integer NOT NULL DEFAULT 0;  -- attempts whose worker died between their claim and their Originate
-- Those that may kill their worker: they are given out one at a time. Mostly there is none.
CREATE INDEX calls_quarantined ON calls (due_at, id) WHERE rescues >= 2;
ALTER TABLE attempts ADD COLUMN rescued_from text;  -- the worker that died with it in hand, as `call_events.writer` names it

-- What had to be put right, how often, since this table was made: `models/repairs.py`.
CREATE TABLE repairs (
  what     text PRIMARY KEY,
  times    bigint NOT NULL DEFAULT 0,
  last_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- ---------------------------------------------------------------------------------------------
-- The last places before the wire
-- ---------------------------------------------------------------------------------------------

ALTER TABLE trunks ADD CONSTRAINT trunks_ip_identifiers CHECK (array_to_string(ip_identifiers, ',', '-') ~ '^[0-9A-Fa-f.:/,]*$');
ALTER TABLE trunk_credentials ADD CONSTRAINT trunk_credentials_one_line CHECK (auth_username || auth_password !~ '[[:cntrl:]]');

-- Whose request comes in is known by its address alone: a From that names a gateway says nothing. A carrier transfers nobody.
CREATE OR REPLACE VIEW ps_endpoints AS
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
       ''::text AS mailboxes,
       'ip'::text AS identify_by,
       'no'::text AS allow_transfer,
       'no'::text AS allow_subscribe
FROM trunk_gateways g JOIN trunks t ON t.id = g.trunk_id
WHERE t.is_active;

-- HASH takes a row apart at commas, quotes and backslashes: a name that ended in a backslash moved every value behind it into
-- its neighbour's place. So what a list may choose is a view of its own, whose values are asked for one by one.
DROP VIEW asterisk_call_context;
CREATE VIEW asterisk_call_context AS
SELECT attempt_id, call_id, campaign_id, phone_number, from_number, attempt_number, node, initiated_at,
       realtime_value(translate(campaign, '\"', '')) AS campaign, realtime_value(translate(agent, '\"', '')) AS agent,
       realtime_value(translate(trunk, '\"', '')) AS trunk
FROM call_context;

CREATE VIEW asterisk_call_person AS
SELECT attempt_id, realtime_value(name) AS name, realtime_value(variables::text) AS variables
FROM call_context;

-- A temporary table is found before one of the schema, unless pg_temp is said to come last: whoever could make one named
-- call_events had its triggers run as the owner of these functions.
ALTER FUNCTION count_calls_inserted() SET search_path = public, pg_temp;
ALTER FUNCTION count_calls_deleted() SET search_path = public, pg_temp;
ALTER FUNCTION calls_moved() SET search_path = public, pg_temp;
ALTER FUNCTION attempts_moved() SET search_path = public, pg_temp;
ALTER FUNCTION ensure_event_partitions() SET search_path = public, pg_temp;

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

GRANT SELECT ON asterisk_call_context, asterisk_call_person TO trunkline_asterisk;
GRANT SELECT, INSERT, UPDATE, DELETE ON node_health, repairs TO trunkline_services;
