-- How many attempts of a campaign hold a slot, or await their second look: those of other campaigns that do are few, too.
--   campaign  uuid
SELECT (SELECT count(*) FROM attempts WHERE campaign_id = %(campaign)s AND status IN ('queued', 'initiated', 'ringing', 'in-progress'))
     + (SELECT count(*) FROM attempts WHERE campaign_id = %(campaign)s AND status = 'unknown' AND hold_until > now())
     + (SELECT count(*) FROM attempts WHERE campaign_id = %(campaign)s AND status = 'withdrawn' AND hold_until IS NOT NULL)
