-- What became of the newest attempts of a trunk, newest first.
--   among  int  only so many attempts, of all trunks, are looked at: an index by trunk would be paid for by every call
SELECT id, call_id, gateway_id, from_number, status, disposition, sip_code, initiated_at, ringing_at, answered_at, codec
FROM (SELECT * FROM attempts ORDER BY id DESC LIMIT %(among)s) newest
WHERE trunk_id = %(trunk)s AND initiated_at IS NOT NULL
ORDER BY id DESC
LIMIT %(most)s
