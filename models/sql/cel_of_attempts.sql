-- What Asterisk itself wrote down of these attempts.
SELECT uniqueid, eventtype, eventtime, extra FROM cel
WHERE uniqueid = ANY (%(ids)s::text[]) AND eventtype IN ('CHAN_START', 'ANSWER', 'HANGUP')
ORDER BY eventtime
