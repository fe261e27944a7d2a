-- there --
-- Of some names, those that are tables or views.
SELECT c.relname::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f');

-- plain_table --
-- What the next query says, for a table that has nothing special. It is asked first, being much
-- cheaper: without a join there is little to plan. Whoever asks knows the names of the types that
-- come with Postgres by their numbers.
SELECT c.oid, %(schema)s::name, c.relname, c.relkind::text, pg_get_userbyid(c.relowner),
       c.relrowsecurity,
       (SELECT i.indkey[0:i.indnkeyatts - 1]::text[]
          FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
       ARRAY(SELECT ARRAY[a.attnum::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
                          a.atttypid::text, a.attcollation::text]
               FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum)
  FROM pg_class c
 WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s::name)
   AND c.relname = %(name)s AND c.relkind IN ('r', 'p', 'v', 'm', 'f');

-- table --
-- One statement: between two, the table may go or change, and the columns would be none of its.
-- A row for each column; one without a name where the table has no column.
WITH found AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner),
           c.relrowsecurity,
           -- The columns of the primary key, in the key's own order; those of INCLUDE are none of it.
           (SELECT coalesce(array_agg(a.attname::text ORDER BY k.ordinality), '{}')
              FROM pg_index i
             CROSS JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, ordinality)
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND k.ordinality <= i.indnkeyatts),
           (SELECT coalesce(array_agg(a.attname::text), '{}')
              FROM pg_partitioned_table p
             CROSS JOIN LATERAL unnest(p.partattrs::int2[]) AS k(attnum)
              JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
             WHERE p.partrelid = c.oid)
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f'))
SELECT found.*, a.attname, format_type(a.atttypid, a.atttypmod),
       -- Of a domain, the type that it is made of in the end.
       (WITH RECURSIVE base AS (
            SELECT t.typname, t.typtype, t.typbasetype FROM pg_type t WHERE t.oid = a.atttypid
            UNION ALL
            SELECT t.typname, t.typtype, t.typbasetype
              FROM base JOIN pg_type t ON t.oid = base.typbasetype AND base.typtype = 'd')
        SELECT typname FROM base WHERE typtype <> 'd'),
       EXISTS (SELECT FROM pg_collation l WHERE l.oid = a.attcollation AND NOT l.collisdeterministic),
       coalesce((SELECT format('%%I.%%I', m.nspname, l.collname)
                   FROM pg_collation l JOIN pg_namespace m ON m.oid = l.collnamespace
                  WHERE l.oid = a.attcollation), ''),
       -- Of a domain, an array, a row or a range: a part whose equal values may look different.
       (WITH RECURSIVE parts (oid, modifier, sorted_by) AS (
            SELECT t.oid, a.atttypmod, 0::oid
              FROM pg_type t
             WHERE t.oid = a.atttypid AND (t.typtype <> 'b' OR t.typelem <> 0)
            UNION
            SELECT below.oid, below.modifier, below.sorted_by
              FROM parts
              JOIN pg_type t ON t.oid = parts.oid
             CROSS JOIN LATERAL (
                   SELECT t.typbasetype, t.typtypmod, t.typcollation WHERE t.typtype = 'd'
                   UNION ALL
                   SELECT t.typelem, parts.modifier, 0::oid
                    WHERE t.typtype = 'b' AND t.typelem <> 0 AND t.typlen = -1
                   UNION ALL
                   SELECT f.atttypid, f.atttypmod, f.attcollation
                     FROM pg_attribute f
                    WHERE t.typtype = 'c' AND f.attrelid = t.typrelid
                      AND f.attnum > 0 AND NOT f.attisdropped
                   UNION ALL
                   SELECT r.rngsubtype, -1, r.rngcollation FROM pg_range r WHERE r.rngtypid = t.oid
                   ) AS below (oid, modifier, sorted_by))
        SELECT min(t.typname::text)
          FROM parts
          JOIN pg_type t ON t.oid = parts.oid
          LEFT JOIN pg_collation l ON l.oid = parts.sorted_by
         WHERE t.typname IN ('numeric', 'float4', 'float8', 'interval', 'timetz', 'citext', 'jsonb')
            OR (t.typname = 'bpchar' AND parts.modifier = -1) OR NOT l.collisdeterministic)
  FROM found
  LEFT JOIN pg_attribute a ON a.attrelid = found.oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;

-- defaults --
-- A generated column has an expression, too, but no default.
SELECT a.attname, coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault),
       a.attidentity <> '' OR a.attgenerated <> ''
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
   AND (d.adbin IS NOT NULL OR t.typdefault IS NOT NULL OR a.attidentity <> '');

-- schemas_with --
-- The role's own search path is kept aside (session.py), while that of the session is empty.
SELECT n.nspname
  FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
 WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p')
 GROUP BY n.nspname HAVING count(*) = %s
 ORDER BY n.nspname <> ALL(
              SELECT CASE btrim(part, ' "') WHEN '$user' THEN current_user::text
                     ELSE btrim(part, ' "') END
                FROM unnest(string_to_array(
                         coalesce(current_setting('esops.path', true), ''), ',')) AS parts (part)
          ), n.nspname;

-- relation_tree --
-- pg_partition_tree gives nothing for a table that has no partitions.
SELECT relid::oid::bigint FROM pg_partition_tree(%(oid)s::oid::regclass)
UNION
SELECT %(oid)s::bigint;

-- row_tables --
-- The tables that hold a table's rows, where indexes can be made CONCURRENTLY: its partitions, or
-- the table itself; of a view none.
SELECT relid::regclass::text FROM pg_partition_tree(%(table)s::regclass) WHERE isleaf
UNION ALL
SELECT c.oid::regclass::text FROM pg_class c
WHERE c.oid = %(table)s::regclass AND c.relkind IN ('r', 'm') AND NOT c.relispartition
ORDER BY 1;

-- leads_an_index --
SELECT bool_and(EXISTS (
           SELECT FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = t.relid AND i.indisvalid AND i.indpred IS NULL
              AND a.attname = %(column)s))
  FROM pg_partition_tree(%(table)s::regclass) t WHERE t.isleaf;

-- side_effects --
-- What else is done where rows of some tables are inserted (4), updated (16) or deleted (8): by
-- triggers and rules that act in this session, and by foreign keys of other tables. A row that is
-- updated in a partitioned table may move, which is all three, and a library may do it as such.
WITH RECURSIVE given AS (
    SELECT k.name, k.name::regclass::oid AS oid,
           CASE WHEN c.relkind = 'p' AND k.actions & 16 > 0 THEN 28 ELSE k.actions END AS actions
      FROM unnest(%(tables)s::text[], %(actions)s::int[]) AS k (name, actions)
      JOIN pg_class c ON c.oid = k.name::regclass
), part AS (
    SELECT * FROM given
    UNION ALL SELECT p.name, i.inhrelid, p.actions FROM pg_inherits i JOIN part p ON p.oid = i.inhparent
)
SELECT 'trigger', p.name, t.tgname::text
  FROM pg_trigger t JOIN part p ON p.oid = t.tgrelid
 WHERE NOT t.tgisinternal AND t.tgtype & p.actions > 0 AND t.tgenabled IN ('O', 'A')
 UNION
SELECT 'rule', p.name, r.rulename::text
  FROM pg_rewrite r JOIN part p ON p.oid = r.ev_class
 WHERE r.ev_enabled IN ('O', 'A')
   AND p.actions & CASE r.ev_type WHEN '2' THEN 16 WHEN '3' THEN 4 WHEN '4' THEN 8 ELSE 0 END > 0
 UNION
SELECT 'foreign key', p.name, f.conrelid::regclass::text
  FROM pg_constraint f JOIN part p ON p.oid = f.confrelid
 WHERE f.contype = 'f' AND p.actions & 8 > 0
   AND (f.confdeltype IN ('c', 'n', 'd') OR p.actions & 16 > 0 AND f.confupdtype IN ('c', 'n', 'd'))
   AND f.conrelid NOT IN (SELECT oid FROM part)
 ORDER BY 1, 2, 3;

-- sequence --
SELECT s.seqcache, s.seqincrement
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_sequence s ON s.seqrelid = c.oid
 WHERE n.nspname = %s AND c.relname = %s;

-- sequence_behind --
-- A default depends on its sequence; a sequence of serial or identity depends on the column. The
-- default counts first: a column may own a sequence that it does not draw from any more.
SELECT n.nspname, s.relname
  FROM pg_attribute a
  LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
  JOIN pg_depend d
    ON (d.classid = 'pg_attrdef'::regclass AND d.objid = e.oid
        AND d.refclassid = 'pg_class'::regclass)
    OR (d.classid = 'pg_class'::regclass AND d.refobjid = a.attrelid
        AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i'))
  JOIN pg_class s
    ON s.relkind = 'S'
   AND s.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
  JOIN pg_namespace n ON n.oid = s.relnamespace
 WHERE a.attrelid = %s AND a.attname = %s
 ORDER BY d.classid = 'pg_attrdef'::regclass DESC, d.deptype = 'i' DESC
 LIMIT 1;

-- tables_with --
SELECT n.nspname, c.relname
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_attribute a
         ON a.attrelid = c.oid AND a.attname = ANY(%(columns)s) AND NOT a.attisdropped
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
   AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'esops')
 GROUP BY 1, 2 HAVING count(a.attname) = %(number)s
 ORDER BY 1, 2;
