-- What Asterisk wrote down of a call that `trunkline doctor` made.
--   ids  text[]   its uniqueid, and what that becomes by the encodings that are set by mistake
SELECT uniqueid, eventtype, eventtime FROM cel WHERE uniqueid = ANY (%(ids)s::text[])
