-- views --
-- The schemas of views with a name that show a table.
SELECT DISTINCT n.nspname
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
  JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
  JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
 WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass
   AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = %(table)s
   AND v.relkind = 'v' AND v.relname = %(name)s;
