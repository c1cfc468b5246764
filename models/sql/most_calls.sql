-- How many calls can be up at once: the limits of the trunks that are on, bounded by the nodes that are heard.
--   deaf_after  interval
SELECT least((SELECT coalesce(sum(max_concurrent_calls), 0) FROM trunks WHERE is_active),
             (SELECT coalesce(sum(max_calls), 0) FROM nodes WHERE heard_at > now() - %(deaf_after)s::interval))
