-- Asterisk's rows of a call that `trunkline doctor` made.
--   ids  text[]   as in cel_of_probe
DELETE FROM cel WHERE uniqueid = ANY (%(ids)s::text[])
