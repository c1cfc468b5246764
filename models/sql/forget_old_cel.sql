-- Asterisk's rows that nobody will look up any more, so many at a time.
--   keep  interval   most  int
DELETE FROM cel WHERE ctid = ANY (ARRAY(SELECT ctid FROM cel WHERE eventtime < now() - %(keep)s::interval LIMIT %(most)s))
