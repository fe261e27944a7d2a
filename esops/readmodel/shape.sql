-- defaults --
-- The default of each column that has one, as SQL; an identity and a generated column have one of
-- their own.
SELECT a.attname,
       coalesce(pg_get_expr(d.adbin, d.adrelid), t.typdefault),
       a.attidentity <> '' OR a.attgenerated <> ''
  FROM pg_attribute a
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
   AND (d.adbin IS NOT NULL OR t.typdefault IS NOT NULL OR a.attidentity <> '');
