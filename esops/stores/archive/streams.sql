-- counted --
-- Streams with the category that their first event or the library gave them, and whether it was
-- said at all. An event that two runs have is taken once.
SELECT s.*, first_category, coalesce(said, FALSE)
  FROM (SELECT stream, tenant, count(*), min(version), max(version), {first_at}, {last_at},
               {closed}, {size}
          FROM (SELECT DISTINCT ON (position_1, position_2, stream, version) *
                  FROM ({stored}) WHERE NOT hidden AND {where})
         GROUP BY 1, 2 ORDER BY 1, 2{bound}) s
       LEFT JOIN ({categories}) USING (stream, tenant)
 ORDER BY 1, 2
