-- A call that came back to a campaign after it was stopped is canceled like the others.
UPDATE calls SET status = 'canceled', disposition = 'canceled', explanation = 'Stopped by an operator.', ended_at = now(), updated_at = now()
FROM campaign_status s
WHERE s.status = 'stopped' AND s.scheduled > 0 AND calls.campaign_id = s.campaign_id AND calls.status = 'scheduled'
