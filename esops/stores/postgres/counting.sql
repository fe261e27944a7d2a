-- listed --
-- The streams of the library's own table: stream, tenant, category, length. A length that cannot
-- be, as after a change by hand, is counted.
(SELECT * FROM (
    SELECT stream, tenant, category, CASE WHEN length > 0 THEN length ELSE
        (SELECT count(*) FROM {events} WHERE {same_stream} AND {same_tenant} AND {asked})
        END AS length
    FROM (SELECT {listed} AS stream, {of_tenant} AS tenant, {category} AS category,
        {length}::bigint AS length FROM {table} WHERE {where}) AS k
) AS listed WHERE length > 0)

-- by_stream --
-- The same where there is no such table, or where the events are to be counted.
(SELECT stream, tenant, {category} AS category, length
   FROM (SELECT {column} AS stream, {tenant} AS tenant, count(*) AS length{of_rows}
           FROM {events} WHERE {where} GROUP BY 1, 2) g)

-- grouped --
-- What the events of each stream say of it.
SELECT {stream}, {tenant}, count(*), min({version}), max({version}), min({at}), max({at}),
       bool_and({archived}), {closed}, {size}, {recent}{category}
  FROM {events} WHERE {where} GROUP BY 1, 2 {end}

-- monthly --
-- Events by category and month, grouped by stream first: then fewer rows need their category.
SELECT {category}, to_char(month, 'YYYY-MM'), sum(n)::bigint
  FROM (SELECT {column} AS stream, {tenant} AS tenant,
               date_trunc('month', {at} AT TIME ZONE 'UTC') AS month, {of_rows} AS of_rows,
               count(*) AS n
          FROM {events}
         WHERE {where} AND {at} BETWEEN '0001-01-01' AND '9999-12-31'
         GROUP BY 1, 2, 3, 4) g
       {join}
 GROUP BY 1, 2

-- pages --
-- How many pages a table has, and all its partitions.
SELECT sum(pg_relation_size(relid)) / current_setting('block_size')::bigint
  FROM pg_partition_tree(%(table)s::regclass)
 UNION ALL
SELECT pg_relation_size(%(table)s::regclass) / current_setting('block_size')::bigint

-- sampled --
-- Of each page that the server picks at random one event, how many events the page has, and through
-- the index the length of the event's stream.
SELECT {category}, tenant, events,
       (SELECT count(*) FROM {table} WHERE {where} AND {same_stream} AND {tenant} = p.tenant)
  FROM (SELECT DISTINCT ON (part, page) stream, tenant, of_rows,
               count(*) OVER (PARTITION BY part, page) AS events
          FROM (SELECT tableoid AS part, (ctid::text::point)[0] AS page, {of_rows} AS of_rows,
                       {column} AS stream, {tenant} AS tenant
                  FROM {table} TABLESAMPLE SYSTEM ({percent})
                 WHERE {where}) s
         ORDER BY part, page, random()) p

-- window --
-- The lowest number and the latest time of some events from a number on. Under names of ours: ORDER
-- BY would take an output's name before the table's column.
SELECT min({n}), max({t}) FILTER (WHERE isfinite({t}))
  FROM (SELECT {number} AS {n}, {at} AS {t} FROM {events}
         WHERE {number} >= %s ORDER BY {number} LIMIT {most}) w
