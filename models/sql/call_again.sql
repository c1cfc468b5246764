-- Unknown calls are to be made again: unknown → scheduled, due now. Their attempts are locked.
--   calls, attempts  uuid[]
WITH mine AS MATERIALIZED (
  SELECT id FROM calls
  WHERE id = ANY (%(calls)s::uuid[]) AND current_attempt_id = ANY (%(attempts)s::uuid[]) AND status = 'unknown'
  ORDER BY id FOR UPDATE
)
UPDATE calls c
SET status = 'scheduled', due_at = now(), updated_at = now(),
    disposition = NULL, explanation = NULL, sip_code = NULL, q850_cause = NULL, ended_at = NULL
FROM mine WHERE c.id = mine.id
RETURNING c.current_attempt_id
