-- view --
SELECT 'CREATE TEMPORARY VIEW pg_temp.esops_tried AS ' || btrim(pg_get_viewdef(%(oid)s::oid), E' \n;');

-- function --
SELECT pg_get_functiondef(%(oid)s);

-- policy --
-- Its conditions, as columns of a query of its table.
SELECT format('CREATE TEMPORARY VIEW pg_temp.esops_tried AS SELECT %%s FROM ONLY %%s',
              concat_ws(', ', pg_get_expr(polqual, polrelid) || ' AS a',
                        pg_get_expr(polwithcheck, polrelid) || ' AS b'),
              polrelid::regclass)
  FROM pg_policy WHERE oid = %(oid)s;

-- changed --
-- The first column of a view that would be another one.
SELECT quote_ident(a.attname),
       CASE WHEN a.attcollation <> b.attcollation AND b.attcollation <> 0
            THEN 'the collation ' || (SELECT quote_ident(collname) FROM pg_collation
                                       WHERE oid = b.attcollation)
            ELSE 'the type ' || format_type(b.atttypid, b.atttypmod) END
  FROM pg_attribute a
  JOIN pg_attribute b ON b.attrelid = %(tried)s::regclass AND b.attnum = a.attnum
 WHERE a.attrelid = %(oid)s AND a.attnum > 0
   AND (a.atttypid, a.atttypmod, a.attcollation) <> (b.atttypid, b.atttypmod, b.attcollation)
 ORDER BY a.attnum
 LIMIT 1;
