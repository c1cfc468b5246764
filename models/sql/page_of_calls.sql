-- A page of a campaign's calls in the order of their numbers, with one more that says whether there are others. Of a status
-- that is rare only so many calls are looked at: `last` is then where the next page goes on.
--   campaign  uuid   after  text, '' for the first page   status  text or NULL: all   look  int   most  int
WITH looked AS MATERIALIZED (
  SELECT id, phone_number, status FROM calls
  WHERE campaign_id = %(campaign)s AND phone_number > %(after)s ORDER BY phone_number LIMIT %(look)s
)
SELECT ARRAY(
         SELECT id FROM looked WHERE %(status)s::text IS NULL OR status = %(status)s ORDER BY phone_number LIMIT %(most)s
       ) AS ids,
       (SELECT count(*) FROM looked) AS looked,
       (SELECT id FROM looked ORDER BY phone_number DESC LIMIT 1) AS last
