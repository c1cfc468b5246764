-- Calls that were picked (and are locked) in this transaction and may not be made.
--   ids  uuid[]   explanations  text[]
UPDATE calls SET status = 'failed', disposition = 'not-placed', explanation = w.explanation, ended_at = now(), updated_at = now()
FROM unnest(%(ids)s::uuid[], %(explanations)s::text[]) AS w (id, explanation)
WHERE calls.id = w.id AND status = 'scheduled'
