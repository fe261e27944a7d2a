-- foreign_keys --
-- The foreign keys to some tables that would refuse that their rows go, or change: name, table,
-- the table that it refers to, and the columns of both.
SELECT c.conname, n.nspname, r.relname, c.confrelid, c.columns, c.keys
  FROM (SELECT c.*,
               ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY AS u(n, at)
                       JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = u.n
                      ORDER BY u.at) AS columns,
               ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY AS u(n, at)
                       JOIN pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = u.n
                      ORDER BY u.at) AS keys
          FROM pg_constraint AS c
         WHERE c.contype = 'f' AND c.conparentid = 0) AS c
  JOIN pg_class AS r ON r.oid = c.conrelid
  JOIN pg_namespace AS n ON n.oid = r.relnamespace
 WHERE (c.confrelid = to_regclass(%(table)s)
        OR c.confrelid IN (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))))
   AND c.conrelid <> ALL (%(own)s::text[]::regclass[])
   AND c.confdeltype IN ('a', 'r') AND c.confupdtype IN ('a', 'r')
   AND (%(changed)s::text[] IS NULL OR c.keys && %(changed)s::text[])
   AND EXISTS (SELECT FROM pg_trigger AS t
                WHERE t.tgconstraint = c.oid AND t.tgrelid = c.confrelid
                  AND t.tgenabled IN ('O', 'A'))
 ORDER BY 2, 3, 1

-- of_events --
-- The streams with an event in their ranges that a row of another table refers to, and to which.
SELECT DISTINCT ON (k.stream, k.tenant) k.stream, k.tenant, {shown}
  FROM {ranges} JOIN {events} AS e ON {of_stream} AND {version} BETWEEN k.low AND k.high
  JOIN {referring} AS r ON {same}

-- of_rows --
-- The streams to whose own row a row of another table refers.
SELECT DISTINCT ON (k.stream, k.tenant) k.stream, k.tenant, {shown}
  FROM {streams} JOIN {own} AS e ON {of_row} JOIN {referring} AS r ON {same}
