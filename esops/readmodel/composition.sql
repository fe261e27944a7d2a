-- plain_composition --
-- What the next query says, for a table that has nothing but columns and indexes; a row of the kind
-- 'more' says that it has something else. It is asked first: the server needs several milliseconds to
-- plan the next one, and most tables have nothing else.
SELECT 'column', quote_ident(a.attname),
       concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                 nullif(a.attcollation, t.typcollation)::regcollation::text,
                 CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                 CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                 CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE 'DEFAULT' END
                 || ' ' || (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
                             WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum),
                 'STORAGE ' || nullif(a.attstorage, t.typstorage)::text,
                 'COMPRESSION ' || nullif(to_jsonb(a) ->> 'attcompression', ''),
                 'STATISTICS ' || nullif(a.attstattarget, -1), a.attoptions)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', quote_ident(c.relname),
       concat_ws(' ', CASE WHEN i.indisunique THEN 'UNIQUE' END,
                 substr(pg_get_indexdef(i.indexrelid),
                        length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, 'INDEX ',
                                      quote_ident(c.relname), ' ON ',
                                      (SELECT format('%%I.%%I', n.nspname, t.relname)
                                         FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                                        WHERE t.oid = %(oid)s))) + 1),
                 (SELECT pg_get_constraintdef(con.oid) FROM pg_constraint con
                   WHERE con.conindid = i.indexrelid AND con.conrelid = i.indrelid
                     AND con.contype IN ('p', 'u', 'x')),
                 (SELECT 'TABLESPACE ' || quote_ident(s.spcname) FROM pg_tablespace s
                   WHERE s.oid = c.reltablespace),
                 CASE WHEN i.indisclustered THEN 'CLUSTER' END,
                 CASE WHEN NOT i.indisvalid THEN 'INVALID' END)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %(oid)s
UNION ALL
SELECT 'more', '', ''
  FROM pg_class c
 WHERE c.oid = %(oid)s
   AND (c.relkind <> 'r' OR c.relispartition OR c.relhassubclass OR c.relchecks <> 0
        OR c.relhasrules OR c.relhastriggers OR c.relrowsecurity OR c.relforcerowsecurity
        OR c.relreplident <> 'd' OR c.relpersistence = 'u' OR c.reltablespace <> 0
        OR c.reloptions IS NOT NULL
        OR c.relam <> 2  -- heap, as the catalogue is made with it
        OR (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid) IS NOT NULL
        OR EXISTS (SELECT FROM pg_inherits WHERE inhrelid = %(oid)s)
        -- One that is not enforced has no triggers.
        OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = %(oid)s AND contype = 'f')
        OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = %(oid)s)
        OR EXISTS (SELECT FROM pg_policy WHERE polrelid = %(oid)s)
        OR EXISTS (SELECT FROM pg_seclabel WHERE objoid = %(oid)s)
        OR EXISTS (SELECT FROM pg_publication_rel WHERE prrelid = %(oid)s)
        OR EXISTS (SELECT FROM pg_description
                    WHERE objoid = ANY (ARRAY(
                              SELECT %(oid)s::oid
                              UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = %(oid)s
                              UNION ALL SELECT oid FROM pg_constraint WHERE conrelid = %(oid)s))))
 ORDER BY 1, 2, 3;

-- composition --
-- What a table has, part by part: the kind, the name, and a text that says how it is and has neither
-- its own name in it nor the table's.
WITH tree AS (
    SELECT c.oid, format('%%I.%%I', n.nspname, c.relname) AS name,
           CASE WHEN c.oid <> %(oid)s THEN ' of ' || c.relname ELSE '' END AS of,
           CASE WHEN c.oid <> %(oid)s THEN ' ' || pg_get_expr(c.relpartbound, c.oid) ELSE '' END AS at
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = %(oid)s
        OR (c.relispartition
            AND c.oid IN (SELECT relid FROM pg_partition_tree(%(oid)s::regclass))))
SELECT 'column', quote_ident(a.attname),
       concat_ws(' ', quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),
                 nullif(a.attcollation, t.typcollation)::regcollation::text,
                 CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                 CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                 CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE 'DEFAULT' END
                 || ' ' || pg_get_expr(d.adbin, d.adrelid),
                 'STORAGE ' || nullif(a.attstorage, t.typstorage)::text,
                 'COMPRESSION ' || nullif(to_jsonb(a) ->> 'attcompression', ''),
                 'STATISTICS ' || nullif(a.attstattarget, -1), a.attoptions)
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', quote_ident(c.relname) || tree.of,
       concat_ws(' ', CASE WHEN i.indisunique THEN 'UNIQUE' END,
                 substr(pg_get_indexdef(i.indexrelid),
                        length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, 'INDEX ',
                                      quote_ident(c.relname), ' ON ',
                                      CASE c.relkind WHEN 'I' THEN 'ONLY ' END, tree.name)) + 1),
                 pg_get_constraintdef(con.oid), 'TABLESPACE ' || quote_ident(s.spcname),
                 CASE WHEN i.indisclustered THEN 'CLUSTER' END,
                 CASE WHEN NOT i.indisvalid AND c.relkind = 'i' THEN 'INVALID' END)
       || tree.at
  FROM tree
  JOIN pg_index i ON i.indrelid = tree.oid
  JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = i.indexrelid)
UNION ALL
SELECT CASE con.contype WHEN 'f' THEN 'foreign key' ELSE 'check' END,
       quote_ident(con.conname) || tree.of,
       replace(pg_get_constraintdef(con.oid), 'REFERENCES ' || tree.name, 'REFERENCES itself')
       || tree.at
  FROM tree JOIN pg_constraint con ON con.conrelid = tree.oid
 WHERE con.contype IN ('c', 'f') AND con.conparentid = 0
   AND (tree.oid = %(oid)s OR (con.conislocal AND con.coninhcount = 0))
UNION ALL
SELECT 'statistics', quote_ident(e.stxname),
       replace(replace(pg_get_statisticsobjdef(e.oid), ' FROM ' || tree.name, ''),
               format('STATISTICS %%I.%%I', n.nspname, e.stxname), 'STATISTICS')
  FROM tree
  JOIN pg_statistic_ext e ON e.stxrelid = tree.oid
  JOIN pg_namespace n ON n.oid = e.stxnamespace
UNION ALL
SELECT 'storage option', o.option || tree.of, o.option || tree.at
  FROM tree JOIN pg_class c ON c.oid = tree.oid
  LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
 CROSS JOIN LATERAL (SELECT unnest(c.reloptions) UNION ALL
                     SELECT 'toast.' || unnest(t.reloptions)) AS o (option)
UNION ALL
SELECT 'storage', s.text || tree.of, s.text || tree.at
  FROM tree JOIN pg_class c ON c.oid = tree.oid
  LEFT JOIN pg_am am ON am.oid = c.relam
  LEFT JOIN pg_tablespace ts ON ts.oid = c.reltablespace
 CROSS JOIN LATERAL (VALUES (CASE WHEN c.relpersistence = 'u' THEN 'UNLOGGED' END),
                            ('USING ' || nullif(quote_ident(am.amname), 'heap')),
                            ('TABLESPACE ' || quote_ident(ts.spcname))) AS s (text)
 WHERE s.text IS NOT NULL
UNION ALL
SELECT 'replica identity', i.text || tree.of, i.text || tree.at
  FROM tree JOIN pg_class c ON c.oid = tree.oid
 CROSS JOIN LATERAL (
       SELECT CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                   WHEN 'i' THEN 'of an index ' || coalesce((
                        SELECT string_agg(pg_get_indexdef(indexrelid, n, false), ', ' ORDER BY n)
                          FROM pg_index, generate_series(1, indnkeyatts) AS n
                         WHERE indrelid = c.oid AND indisreplident), '') END) AS i (text)
 WHERE i.text IS NOT NULL
UNION ALL
SELECT 'comment', 'on ' || c.what || tree.of, c.text || tree.at
  FROM tree
 CROSS JOIN LATERAL (
       SELECT coalesce('column ' || a.attname, 'the table'), description
         FROM pg_description LEFT JOIN pg_attribute a ON a.attrelid = objoid AND a.attnum = objsubid
                                                     AND objsubid > 0
        WHERE objoid = tree.oid AND classoid = 'pg_class'::regclass
       UNION ALL
       SELECT 'index ' || x.relname, obj_description(x.oid, 'pg_class')
         FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid WHERE i.indrelid = tree.oid
       UNION ALL
       SELECT 'constraint ' || conname, obj_description(oid, 'pg_constraint')
         FROM pg_constraint WHERE conrelid = tree.oid AND contype <> 'n') AS c (what, text)
 WHERE c.text IS NOT NULL
UNION ALL
SELECT 'rule', quote_ident(r.rulename) || tree.of,
       replace(replace(pg_get_ruledef(r.oid), format('RULE %%I AS', r.rulename), 'RULE AS'),
               tree.name, 'itself') || tree.at
  FROM tree JOIN pg_rewrite r ON r.ev_class = tree.oid
 WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT 'security label', l.provider || tree.of, concat_ws(' ', l.provider, l.label, l.objsubid) || tree.at
  FROM tree JOIN pg_seclabel l ON l.objoid = tree.oid AND l.classoid = 'pg_class'::regclass
UNION ALL
SELECT 'partition', c.relname, pg_get_expr(c.relpartbound, c.oid)
  FROM tree JOIN pg_class c ON c.oid = tree.oid
 WHERE tree.oid <> %(oid)s
UNION ALL
SELECT 'parent', inhparent::regclass::text, inhparent::regclass::text
  FROM pg_inherits WHERE inhrelid = %(oid)s
UNION ALL
SELECT 'trigger', quote_ident(t.tgname) || tree.of,
       replace(replace(pg_get_triggerdef(t.oid), 'TRIGGER ' || quote_ident(t.tgname), 'TRIGGER'),
               ' ON ' || tree.name, '') || ' ' || t.tgenabled::text || tree.at
  FROM tree JOIN pg_trigger t ON t.tgrelid = tree.oid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT 'row security', f.text, f.text
  FROM pg_class c
 CROSS JOIN LATERAL (VALUES (CASE WHEN c.relrowsecurity THEN 'ENABLE' END),
                            (CASE WHEN c.relforcerowsecurity THEN 'FORCE' END)) AS f (text)
 WHERE c.oid = %(oid)s AND f.text IS NOT NULL
UNION ALL
SELECT 'policy', quote_ident(p.polname),
       concat_ws(' ', p.polname, p.polpermissive, p.polcmd, p.polroles::regrole[],
                 pg_get_expr(p.polqual, p.polrelid), '/', pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p
 WHERE p.polrelid = %(oid)s
 ORDER BY 1, 2, 3;
