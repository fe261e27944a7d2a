-- indexes --
-- The indexes of a table, without those that a failed CREATE INDEX CONCURRENTLY left behind: the
-- constraint whose index it is, and what CREATE INDEX says after the table's name.
SELECT c.relname, pg_get_constraintdef(con.oid), i.indisunique, coalesce(con.contype = 'x', false),
       whole.text, regexp_replace(whole.text, ' WITH \([^)]*\)', ''),
       array_to_string(c.reloptions, ', ')
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 CROSS JOIN LATERAL (
       SELECT substr(pg_get_indexdef(i.indexrelid),
                     length(concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END,
                                   'INDEX ', quote_ident(c.relname), ' ON ',
                                   CASE c.relkind WHEN 'I' THEN 'ONLY ' END,
                                   format('%%I.%%I', n.nspname, t.relname))) + 1)) AS whole (text)
 WHERE i.indrelid = %(oid)s AND (i.indisvalid OR c.relkind = 'I')
 ORDER BY c.relname;

-- statistics --
-- Extended statistics: what CREATE STATISTICS says between the name and the table.
SELECT n.nspname, e.stxname,
       substr(whole.text, prefix, length(whole.text) - prefix + 1
                                  - length(' FROM ' || e.stxrelid::regclass::text))
  FROM pg_statistic_ext e
  JOIN pg_namespace n ON n.oid = e.stxnamespace
 CROSS JOIN LATERAL (SELECT pg_get_statisticsobjdef(e.oid)) AS whole (text)
 CROSS JOIN LATERAL (SELECT length(format('CREATE STATISTICS %%I.%%I', n.nspname, e.stxname)) + 1)
                        AS begins (prefix)
 WHERE e.stxrelid = %(oid)s
 ORDER BY e.stxname;

-- checks --
SELECT quote_ident(conname), pg_get_constraintdef(oid)
  FROM pg_constraint
 WHERE conrelid = %(oid)s AND contype = 'c'
 ORDER BY conname;

-- columns --
-- The columns that two tables have in common: what green lacks, in words, and its storage,
-- compression and comment where only blue's differ from what Postgres gives by itself. Compression
-- came with Postgres 14.
SELECT quote_ident(a.attname),
       array_remove(ARRAY[
           CASE WHEN d.adbin IS NOT NULL AND a.attgenerated = '' AND e.adbin IS NULL
                     AND b.attidentity = ''
                THEN 'default value ' || pg_get_expr(d.adbin, d.adrelid) END,
           CASE WHEN a.attgenerated <> '' AND b.attgenerated = ''
                THEN 'generated expression ' || pg_get_expr(d.adbin, d.adrelid) END,
           CASE WHEN a.attidentity <> '' AND b.attidentity = '' AND e.adbin IS NULL
                THEN 'identity' END,
           CASE WHEN a.attnotnull AND NOT b.attnotnull THEN 'NOT NULL' END,
           CASE WHEN a.atttypid = b.atttypid AND a.attcollation NOT IN (b.attcollation, t.typcollation)
                     AND b.attcollation = t.typcollation
                THEN 'collation ' || a.attcollation::regcollation END], NULL),
       CASE WHEN a.atttypid = b.atttypid AND a.attstorage <> b.attstorage
                 AND b.attstorage = t.typstorage
            THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                                   WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
       CASE WHEN a.atttypid = b.atttypid AND to_jsonb(b) ->> 'attcompression' = ''
            THEN CASE to_jsonb(a) ->> 'attcompression' WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END END,
       CASE WHEN col_description(b.attrelid, b.attnum) IS NULL
            THEN col_description(a.attrelid, a.attnum) END
  FROM pg_attribute a
  JOIN pg_attribute b ON b.attrelid = %(green)s AND b.attname = a.attname AND NOT b.attisdropped
  JOIN pg_type t ON t.oid = b.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
  LEFT JOIN pg_attrdef e ON e.adrelid = b.attrelid AND e.adnum = b.attnum
 WHERE a.attrelid = %(blue)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;
