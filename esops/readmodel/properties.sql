-- clauses --
-- What CREATE TABLE ... (LIKE ...) does not take from the other table, and what belongs to its own
-- clauses: whether it is logged, how it is partitioned, its access method and its tablespace.
SELECT c.relpersistence = 'u', pg_get_partkeydef(c.oid),
       CASE WHEN am.amname <> current_setting('default_table_access_method')
            THEN quote_ident(am.amname) END,
       quote_ident(s.spcname)
  FROM pg_class c
  LEFT JOIN pg_am am ON am.oid = c.relam
  LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
 WHERE c.oid = %(oid)s;

-- partitions --
-- The partitions of a table at every level, parents first.
WITH RECURSIVE tree (oid, parent, depth) AS (
    SELECT c.oid, c.oid, 0 FROM pg_class c WHERE c.oid = %(oid)s
    UNION ALL
    SELECT c.oid, h.inhparent, tree.depth + 1
      FROM tree JOIN pg_inherits h ON h.inhparent = tree.oid
      JOIN pg_class c ON c.oid = h.inhrelid AND c.relispartition)
SELECT c.oid::bigint, tree.parent::bigint, n.nspname, c.relname,
       pg_get_expr(c.relpartbound, c.oid)
  FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE tree.depth > 0
 ORDER BY tree.depth, c.relname;

-- settings --
-- Storage options of a table and of its TOAST table, as SET takes them; replica identity; comment:
-- each only where green has none of its own.
WITH options (oid, option) AS (
    SELECT c.oid, unnest(c.reloptions) FROM pg_class c WHERE c.oid IN (%(blue)s, %(green)s)
    UNION ALL
    SELECT c.oid, 'toast.' || unnest(t.reloptions)
      FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid
     WHERE c.oid IN (%(blue)s, %(green)s))
SELECT (SELECT string_agg(o.option, ', ')
          FROM options o
         WHERE o.oid = c.oid
           AND NOT EXISTS (SELECT FROM options g
                            WHERE g.oid = %(green)s
                              AND split_part(g.option, '=', 1) = split_part(o.option, '=', 1))),
       CASE g.relreplident WHEN 'd' THEN c.relreplident END::text,
       CASE WHEN obj_description(g.oid, 'pg_class') IS NULL
            THEN obj_description(c.oid, 'pg_class') END
  FROM pg_class c, pg_class g
 WHERE c.oid = %(blue)s AND g.oid = %(green)s;

-- columns --
-- Statistics targets and options of the columns that two tables have in common.
SELECT quote_ident(a.attname),
       CASE WHEN coalesce(b.attstattarget, -1) = -1 THEN nullif(a.attstattarget, -1) END,
       CASE WHEN b.attoptions IS NULL THEN array_to_string(a.attoptions, ', ') END
  FROM pg_attribute a
  JOIN pg_attribute b ON b.attrelid = %(green)s AND b.attname = a.attname AND NOT b.attisdropped
 WHERE a.attrelid = %(blue)s AND a.attnum > 0
   AND (coalesce(a.attstattarget, -1) <> -1 OR a.attoptions IS NOT NULL)
 ORDER BY a.attnum;

-- sequences --
-- What the sequences of two identity columns differ in: comment and type, as blue's has them. LIKE
-- makes green's a bigint, with the limits of blue's.
SELECT c.oid::bigint, g.oid::bigint,
       CASE WHEN obj_description(g.oid, 'pg_class') IS NULL
            THEN obj_description(c.oid, 'pg_class') END,
       CASE WHEN s.seqtypid <> o.seqtypid THEN s.seqtypid::regtype::text END
  FROM pg_class c
  JOIN pg_sequence s ON s.seqrelid = c.oid,
       pg_class g
  JOIN pg_sequence o ON o.seqrelid = g.oid
 WHERE c.oid = to_regclass(%(blue)s) AND g.oid = to_regclass(%(green)s);

-- constraint_comments --
-- Comments on the constraints without an index that two tables have in common.
SELECT quote_ident(b.conname), obj_description(a.oid, 'pg_constraint')
  FROM pg_constraint a
  JOIN pg_constraint b ON b.conrelid = %(green)s AND b.conname = a.conname
                      AND b.contype = a.contype
 WHERE a.conrelid = %(blue)s AND a.contype NOT IN ('p', 'u', 'x')
   AND obj_description(a.oid, 'pg_constraint') IS NOT NULL
   AND obj_description(b.oid, 'pg_constraint') IS NULL
 ORDER BY 1;

-- row_security --
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %(oid)s;

-- policies --
-- The policies of a table: the name, and all that CREATE POLICY says after the table's name.
SELECT quote_ident(p.polname),
       concat(' AS ', CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
              ' FOR ', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                                     WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                                     ELSE 'ALL' END,
              ' TO ', (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC'
                                              ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                         FROM unnest(p.polroles) r),
              ' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
              ' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
       obj_description(p.oid, 'pg_policy')
  FROM pg_policy p
 WHERE p.polrelid = %(oid)s
 ORDER BY p.polname;
