-- What a stopped campaign had still to call is canceled.
UPDATE calls SET status = 'canceled', disposition = 'canceled', explanation = 'Stopped by an operator.', ended_at = now(), updated_at = now()
WHERE campaign_id = %(campaign)s AND status = 'scheduled'
