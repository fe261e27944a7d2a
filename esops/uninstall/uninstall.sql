-- sessions --
-- Other processes of esops in this database. What a session calls itself is visible to every role.
SELECT pid, application_name FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND application_name LIKE 'esops %%:%%' AND NOT starts_with(application_name, %(ours)s)
 ORDER BY backend_start;

-- schema --
SELECT pg_get_userbyid(nspowner), pg_has_role(nspowner, 'USAGE'), current_user::text,
       pg_is_in_recovery()
  FROM pg_namespace WHERE nspname = 'esops';

-- relations --
-- What is in the schema: tables, with their owner, and whether this role may drop them. Indexes,
-- sequences of identity columns and row types go with their tables.
SELECT c.relname::text, c.relkind::text, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'),
       pg_total_relation_size(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'esops' AND c.relkind NOT IN ('i', 'I', 't')
   AND NOT EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                      AND d.deptype IN ('a', 'i') AND d.refclassid = 'pg_class'::regclass)
 ORDER BY 1;

-- functions --
SELECT format('function %%s', p.oid::regprocedure)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'esops';

-- described --
-- The comments of a view that its table has not: of the relation (attnum 0) and of columns.
SELECT a.attnum, a.attname, d.description
  FROM pg_description d
  LEFT JOIN pg_attribute a ON a.attrelid = d.objoid AND a.attnum = d.objsubid AND d.objsubid > 0
 WHERE d.classoid = 'pg_class'::regclass AND d.objoid = %(view)s
   AND d.description IS DISTINCT FROM CASE
       WHEN d.objsubid = 0 THEN obj_description(%(table)s, 'pg_class')
       ELSE (SELECT col_description(b.attrelid, b.attnum) FROM pg_attribute b
              WHERE b.attrelid = %(table)s AND b.attname = a.attname AND NOT b.attisdropped) END
 ORDER BY d.objsubid;

-- constraints --
-- Those of a table that no index stands behind: their names are its own. An inherited one is renamed
-- with that of its parent.
SELECT conname::text FROM pg_constraint
 WHERE conrelid = %(table)s AND conindid = 0 AND coninhcount = 0 ORDER BY 1;

-- owner --
SELECT pg_get_userbyid(relowner), pg_has_role(relowner, 'USAGE') FROM pg_class
 WHERE oid = %(oid)s AND NOT pg_has_role(relowner, 'USAGE');

-- unfinished --
SELECT DISTINCT ON (projection) rebuild, projection, state, finished_at IS NULL
  FROM esops.rebuilds ORDER BY projection, rebuild DESC;

-- spills --
SELECT host, directory FROM esops.spills ORDER BY 1, 2;

-- erasures --
SELECT id, store, places_left FROM esops.erasures ORDER BY id;
