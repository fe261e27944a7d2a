-- unique --
-- The unique indexes of a table: their columns, whether they keep all rows of it apart, and if not,
-- why.
SELECT c.relname::text,
       (SELECT array_agg(a.attname::text ORDER BY k.at)
          FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, at)
          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
         WHERE k.at <= i.indnkeyatts),
       CASE WHEN NOT i.indisvalid THEN 'is not valid'
            WHEN i.indpred IS NOT NULL THEN 'is partial'
            WHEN i.indexprs IS NOT NULL THEN 'is on an expression'
            WHEN t.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = t.oid)
            THEN 'does not cover the tables that inherit from it' END
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
 WHERE i.indrelid = %s AND i.indisunique
 ORDER BY 1;

-- what_an_index_cannot --
-- Whether other tables inherit from a table; and why no unique index of it can be on some columns
-- alone: it must have all columns that its partitions are told apart by.
SELECT c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid),
       (SELECT min(CASE WHEN p.partrelid IS NULL
                        THEN format('the partition %%s is a foreign table', t.relid)
                        ELSE format('%%s is partitioned by %%s', t.relid,
                                    pg_get_partkeydef(p.partrelid)) END)
          FROM pg_partition_tree(c.oid) t
          JOIN pg_class m ON m.oid = t.relid
          LEFT JOIN pg_partitioned_table p ON p.partrelid = t.relid
         WHERE m.relkind = 'f'
            OR EXISTS (SELECT FROM unnest(p.partattrs::int2[]) AS k (number)
                         LEFT JOIN pg_attribute a
                                ON a.attrelid = p.partrelid AND a.attnum = k.number
                        WHERE a.attname IS NULL OR a.attname <> ALL(%(columns)s)))
  FROM pg_class c WHERE c.oid = %(table)s;

-- nullable --
SELECT attname::text FROM pg_attribute
 WHERE attrelid = %s AND attname = ANY(%s) AND NOT attnotnull AND NOT attisdropped
 ORDER BY attnum;

-- enums --
SELECT a.attname::text, format('%%I.%%I', n.nspname, t.typname)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE a.attrelid = %s AND a.attname = ANY(%s) AND t.typtype = 'e';

-- doubled --
-- Among the oldest and the newest events, two with one stream and version, the first by name; and
-- how many were looked at. A row has its own place, for two may be alike.
WITH looked AS (
    (SELECT tableoid, ctid, {name} AS name, {version}::bigint AS version, {number}::bigint AS number
       FROM {events} ORDER BY {number} LIMIT {most})
    UNION
    (SELECT tableoid, ctid, {name} AS name, {version}::bigint AS version, {number}::bigint AS number
       FROM {events} ORDER BY {number} DESC LIMIT {most})
)
SELECT (SELECT count(*) FROM looked), d.*
  FROM (SELECT) AS one
  LEFT JOIN (SELECT name, version, count(*), (array_agg(number ORDER BY number))[1:2]
               FROM looked WHERE name IS NOT NULL AND version IS NOT NULL
              GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 1) AS d ON TRUE;

-- without --
-- Among the oldest and the newest events, those that lack a part. Without a number they count as
-- the newest.
SELECT {counts}
  FROM ((SELECT {columns} FROM {events} ORDER BY {number} LIMIT {most})
        UNION ALL
        (SELECT {columns} FROM {events} ORDER BY {number} DESC LIMIT {most})) AS looked;

-- doubled_among --
-- Of some streams, one with a version that two events have.
SELECT {name}, {version}::bigint FROM {events} WHERE {any_stream}
 GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2 LIMIT 1;

-- missing --
-- The newest numbers that are missing among the newest events, and how many these are.
WITH newest AS (SELECT {number}::bigint AS number FROM {events} ORDER BY 1 DESC LIMIT {most}),
     steps AS (SELECT number, lead(number) OVER (ORDER BY number) AS following FROM newest)
SELECT (SELECT count(*) FROM newest), count(*), max(number + 1),
       (array_agg(following - 1 ORDER BY number DESC))[1]
  FROM steps WHERE following - number > 1;
