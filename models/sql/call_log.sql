-- The newest transitions of a call and of its attempts, in their order. An explanation is told beside the transition that it explains:
-- an attempt's at its end, the call's own where that is not its attempt's.
--   call  uuid   most  int
SELECT * FROM (
  SELECT e.at, e.subject, e.attempt_id, e.from_status, e.to_status, e.disposition,
         CASE WHEN a.status = e.to_status THEN a.explanation
              WHEN e.subject = 'call' AND c.status = e.to_status THEN c.explanation END AS explanation
  FROM call_events e
  JOIN calls c ON c.id = e.call_id
  LEFT JOIN attempts a ON a.id = e.attempt_id
  WHERE e.call_id = %(call)s
  ORDER BY e.at DESC LIMIT %(most)s
) newest
ORDER BY at
