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

-- What had to be put right, how often, since this table was made: `models/repairs.py`.
CREATE TABLE repairs (
  what     text PRIMARY KEY,
  times    bigint NOT NULL DEFAULT 0,
  last_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- ---------------------------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------------------------

GRANT SELECT, INSERT, UPDATE, DELETE ON node_health, repairs TO trunkline_services;
