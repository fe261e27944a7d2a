-- dependants --
-- Views and functions are bound to a relation by its oid, not by its name; so are foreign keys.
SELECT DISTINCT CASE c.relkind WHEN 'm' THEN 'materialised view ' ELSE 'view ' END
                || c.oid::regclass::text
  FROM pg_depend d
  JOIN pg_rewrite r ON r.oid = d.objid
  JOIN pg_class c ON c.oid = r.ev_class
 WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = %(oid)s AND c.oid <> %(oid)s
UNION
SELECT 'function ' || d.objid::regprocedure::text
  FROM pg_depend d
 WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_class'::regclass
   AND d.refobjid = %(oid)s
UNION
SELECT 'foreign key ' || quote_ident(conname) || ' of ' || conrelid::regclass::text
  FROM pg_constraint
 WHERE confrelid = %(oid)s AND contype = 'f' AND conrelid <> %(oid)s AND %(tables)s
 ORDER BY 1;
