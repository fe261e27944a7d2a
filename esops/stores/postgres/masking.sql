-- columns --
-- Of each column: whether this role may update it, whether it is generated, and its type.
SELECT a.attname, has_column_privilege(a.attrelid, a.attnum, 'UPDATE'), a.attgenerated <> '',
       t.typname
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %(oid)s AND a.attname = ANY(%(columns)s);

-- obstacles --
-- What stands in the way of an update, or sees it: rules; parts of the table whose updates are
-- published without a way to tell the rows; triggers of the application.
WITH RECURSIVE parts(oid) AS (
    SELECT %(oid)s::oid
    UNION ALL
    SELECT i.inhrelid FROM pg_inherits i JOIN parts p ON p.oid = i.inhparent
)
SELECT ARRAY(SELECT r.rulename::text FROM pg_rewrite r JOIN parts p ON p.oid = r.ev_class
              WHERE r.ev_type = '2'),
       ARRAY(SELECT c.oid::regclass::text FROM pg_class c JOIN parts p ON p.oid = c.oid
              WHERE c.relkind = 'r'
                AND (c.relreplident = 'n'
                     OR (c.relreplident = 'd'
                         AND NOT EXISTS (SELECT FROM pg_index x
                                          WHERE x.indrelid = c.oid AND x.indisprimary)))
                AND (EXISTS (SELECT FROM pg_publication WHERE puballtables AND pubupdate)
                     OR EXISTS (SELECT FROM pg_publication_rel pr
                                  JOIN pg_publication pb ON pb.oid = pr.prpubid
                                  JOIN parts q ON q.oid = pr.prrelid
                                 WHERE pb.pubupdate))),
       ARRAY(SELECT DISTINCT t.tgname::text FROM pg_trigger t JOIN parts p ON p.oid = t.tgrelid
              WHERE NOT t.tgisinternal AND t.tgtype & 16 > 0 AND t.tgenabled <> 'D');

-- copies --
-- The tables of the library that hold copies of what is in events.
SELECT n.nspname::text, c.relname::text,
       CASE WHEN c.relname LIKE 'mt\_doc\_%%' THEN 'document'
            WHEN c.relname LIKE 'mt\_event\_tag\_%%' OR c.relname LIKE 'mt\_natural\_key\_%%'
            THEN 'lookup'
            WHEN c.relname IN ('emt_streams', 'mt_streams') THEN 'named'
            ELSE 'snapshot' END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND ((%(layout)s = 'marten'
         AND (c.relname LIKE 'mt\_doc\_%%'
              OR (n.nspname = %(schema)s
                  AND (c.relname = 'mt_streams' OR c.relname LIKE 'mt\_event\_tag\_%%'
                       OR c.relname LIKE 'mt\_natural\_key\_%%'))))
        OR (%(layout)s = 'emmett' AND n.nspname = %(schema)s AND c.relname = 'emt_streams')
        OR (%(layout)s = 'eventsourcing' AND n.nspname = %(schema)s
            AND c.relname LIKE '%%\_snapshots'))
 ORDER BY 1, 2;

-- emptied --
-- Streams that are marked as archived, and have no event. A tenant's events have its column, too.
SELECT s.{id}::text, s.{tenant}::text FROM {schema}.{streams} s
 WHERE s.is_archived IS TRUE
   AND NOT EXISTS (SELECT FROM {events} e WHERE e.{stream} = s.{id} AND e.{tenant} = s.{tenant});
