-- A call that is still to be made is canceled.
UPDATE calls SET status = 'canceled', disposition = 'canceled', explanation = %(explanation)s, ended_at = now(), updated_at = now()
WHERE id = %(call)s AND status = 'scheduled'
