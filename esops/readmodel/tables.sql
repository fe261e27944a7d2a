-- parent --
-- The table that this one inherits from, or is a partition of.
SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = %(oid)s;

-- not_carried --
-- What belongs to a table and would change what happens to other tables if green had it as well.
-- With `switch = "rename"`, triggers move with the name, unless this role may not make them.
SELECT 'trigger ' || quote_ident(tgname)
       || CASE WHEN %(renames)s
               THEN format(' (to carry it over, esops needs GRANT EXECUTE ON FUNCTION %%s TO %%I)',
                           tgfoid::regprocedure, current_user) ELSE '' END
  FROM pg_trigger
 WHERE tgrelid = %(oid)s AND NOT tgisinternal AND tgparentid = 0
   AND NOT (%(renames)s AND has_function_privilege(tgfoid, 'EXECUTE'))
UNION ALL
SELECT 'rule ' || quote_ident(rulename)
  FROM pg_rewrite
 WHERE ev_class = %(oid)s AND rulename <> '_RETURN'
UNION ALL
-- An index that only one partition has.
SELECT 'index ' || x.indexrelid::regclass
  FROM pg_partition_tree(%(oid)s::regclass) p
  JOIN pg_index x ON x.indrelid = p.relid AND p.level > 0
 WHERE NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = x.indexrelid)
UNION ALL
-- The same for checks and triggers: what the whole table has, its partitions have by it.
SELECT format('constraint %%I of %%s', con.conname, con.conrelid::regclass)
  FROM pg_partition_tree(%(oid)s::regclass) p
  JOIN pg_constraint con ON con.conrelid = p.relid AND p.level > 0
 WHERE con.contype IN ('c', 'f') AND con.conislocal AND con.coninhcount = 0 AND con.conparentid = 0
UNION ALL
SELECT format('trigger %%I of %%s', t.tgname, t.tgrelid::regclass)
  FROM pg_partition_tree(%(oid)s::regclass) p
  JOIN pg_trigger t ON t.tgrelid = p.relid AND p.level > 0
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
UNION ALL
SELECT 'security label of ' || provider
  FROM pg_seclabel
 WHERE objoid = %(oid)s AND classoid = 'pg_class'::regclass
 ORDER BY 1;

-- free_sequences --
-- A serial column that LIKE copied draws from the sequence of the table it was copied from. That
-- sequence must outlive its table, so it is freed from the table before the table is dropped.
SELECT format('ALTER SEQUENCE %%s OWNED BY NONE', s.oid::regclass)
  FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
 WHERE d.refobjid = %(oid)s AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
   AND EXISTS (SELECT
                 FROM pg_depend u
                 JOIN pg_attrdef f ON f.oid = u.objid AND u.classid = 'pg_attrdef'::regclass
                WHERE u.refobjid = s.oid AND f.adrelid <> %(oid)s);
