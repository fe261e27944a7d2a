-- ranges --
-- The numbers of events in ranges without a gap.
WITH seen AS MATERIALIZED (SELECT {number} AS number FROM {events} WHERE {where} LIMIT {most})
SELECT min(number), max(number)
FROM (SELECT number, number - row_number() OVER (ORDER BY number) AS island
      FROM (SELECT DISTINCT number FROM seen) AS d) AS islands
GROUP BY island ORDER BY 1
