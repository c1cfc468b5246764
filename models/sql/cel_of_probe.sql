-- What Asterisk wrote down of a call that `trunkline doctor` made.
--   ids  text[]   the uniqueids of both halves of its channel, and what they become by an encoding set by mistake
SELECT uniqueid, eventtype, eventtime FROM cel WHERE uniqueid = ANY (%(ids)s::text[])
