-- plain_objects --
-- What the next query says, for a table that has nothing but indexes; a row of the kind 'MORE' says
-- that it has something else. It is asked first, being much cheaper to plan.
SELECT 'INDEX' AS kind, (SELECT n.nspname FROM pg_namespace n WHERE n.oid = c.relnamespace),
       c.relname AS name,
       concat_ws('|', '', i.indisunique, i.indisprimary, con.contype, con.condeferrable,
                 con.condeferred,
                 substr(pg_get_indexdef(i.indexrelid),
                        length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                                      'INDEX ', quote_ident(c.relname), ' ON ',
                                      (SELECT format('%%I.%%I', n.nspname, t.relname)
                                         FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                                        WHERE t.oid = %(oid)s))) + 1))
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %(oid)s
UNION ALL
SELECT 'MORE', '', '', ''
  FROM pg_class c
 WHERE c.oid = %(oid)s
   AND (c.relkind <> 'r'
        OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = %(oid)s AND attidentity <> '')
        OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = %(oid)s))
 ORDER BY 1, 3;

-- objects --
-- What belongs to a table and has a name of its own in the schema: its partitions, its indexes with
-- the constraints on them, the sequences of its identity columns, its statistics. What each is,
-- without any name in it, is the same for two tables of one definition.
WITH RECURSIVE tree (oid, path) AS (
    SELECT c.oid, ''::text COLLATE "C" FROM pg_class c WHERE c.oid = %(oid)s
    UNION ALL
    SELECT c.oid, (tree.path || '/' || pg_get_expr(c.relpartbound, c.oid)) COLLATE "C"
      FROM tree
      JOIN pg_inherits h ON h.inhparent = tree.oid
      JOIN pg_class c ON c.oid = h.inhrelid AND c.relispartition)
SELECT 'TABLE' AS kind, n.nspname AS schema, c.relname AS name, tree.path AS definition
  FROM tree JOIN pg_class c ON c.oid = tree.oid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE tree.path <> ''
UNION ALL
SELECT 'INDEX', n.nspname, c.relname,
       concat_ws('|', tree.path, i.indisunique, i.indisprimary, con.contype, con.condeferrable,
                 con.condeferred,
                 substr(pg_get_indexdef(i.indexrelid),
                        length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                                      'INDEX ', quote_ident(c.relname), ' ON ',
                                      CASE c.relkind WHEN 'I' THEN 'ONLY ' END,
                                      format('%%I.%%I', tn.nspname, t.relname))) + 1))
  FROM tree
  JOIN pg_class t ON t.oid = tree.oid
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
  JOIN pg_index i ON i.indrelid = tree.oid
  JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
UNION ALL
SELECT 'SEQUENCE', n.nspname, s.relname, a.attname
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = %(oid)s AND d.deptype = 'i'
UNION ALL
SELECT 'STATISTICS', n.nspname, e.stxname,
       (SELECT substr(whole.text, prefix, length(whole.text) - prefix + 1
                      - length(' FROM ' || e.stxrelid::regclass::text))
          FROM (SELECT pg_get_statisticsobjdef(e.oid)) AS whole (text),
               (SELECT length(format('CREATE STATISTICS %%I.%%I', n.nspname, e.stxname)) + 1)
                   AS begins (prefix))
  FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace
 WHERE e.stxrelid = %(oid)s
 ORDER BY 1, 3;

-- serials --
-- Sequences that belong to a column of one table, while the same column of the other table draws
-- from them.
SELECT format('%%I.%%I', n.nspname, s.relname), quote_ident(a.attname)
  FROM pg_depend d
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace n ON n.oid = s.relnamespace
  JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
  JOIN pg_attribute b ON b.attrelid = %(target)s AND b.attname = a.attname
  JOIN pg_attrdef e ON e.adrelid = b.attrelid AND e.adnum = b.attnum
  JOIN pg_depend u ON u.classid = 'pg_attrdef'::regclass AND u.objid = e.oid
                  AND u.refclassid = 'pg_class'::regclass AND u.refobjid = s.oid
 WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = %(source)s AND d.deptype = 'a'
 ORDER BY 1;

-- identities --
-- The identity columns that two tables have in common, each with the sequence of either.
SELECT format('%%I.%%I', sn.nspname, s.relname), format('%%I.%%I', tn.nspname, t.relname)
  FROM pg_attribute a
  JOIN pg_attribute b ON b.attrelid = %(target)s AND b.attname = a.attname AND b.attidentity <> ''
  JOIN pg_depend d ON d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.deptype = 'i'
                  AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
  JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
  JOIN pg_namespace sn ON sn.oid = s.relnamespace
  JOIN pg_depend e ON e.refobjid = b.attrelid AND e.refobjsubid = b.attnum AND e.deptype = 'i'
                  AND e.classid = 'pg_class'::regclass AND e.refclassid = 'pg_class'::regclass
  JOIN pg_class t ON t.oid = e.objid AND t.relkind = 'S'
  JOIN pg_namespace tn ON tn.oid = t.relnamespace
 WHERE a.attrelid = %(source)s AND a.attidentity <> ''
 ORDER BY 1;

-- is_taken --
SELECT EXISTS (
    SELECT FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = %(schema)s AND c.relname = %(name)s AND %(kind)s::text <> 'STATISTICS'
    UNION ALL
    SELECT FROM pg_statistic_ext e
      JOIN pg_namespace n ON n.oid = e.stxnamespace
     WHERE n.nspname = %(schema)s AND e.stxname = %(name)s AND %(kind)s::text = 'STATISTICS');
