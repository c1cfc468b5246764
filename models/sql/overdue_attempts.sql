-- The node's attempts whose fate has to be looked up: those from before the listener heard everything
-- (`since`, at its start), those that have been silent, or up, for longer than they can be, and the unknown ones that
-- still hold their slot: Asterisk's own ledger may know by now.
--   node  text   since  timestamptz or NULL   silent_for, in_hand, longest  interval
SELECT id FROM attempts
WHERE node = %(node)s AND status IN ('initiated', 'ringing', 'in-progress')
  AND initiated_at < clock_timestamp() - %(in_hand)s::interval
  AND (initiated_at < %(since)s::timestamptz
       OR (status = 'initiated' AND initiated_at < clock_timestamp() - %(silent_for)s::interval)
       OR initiated_at < clock_timestamp() - %(longest)s::interval)
UNION ALL
SELECT id FROM attempts WHERE node = %(node)s AND status = 'unknown' AND hold_until > clock_timestamp()
ORDER BY id
