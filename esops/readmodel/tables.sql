-- storage --
-- What CREATE TABLE … (LIKE … INCLUDING ALL) does not copy: storage options, comment, owner.
SELECT array_to_string(c.reloptions, ', '),
       obj_description(c.oid, 'pg_class'),
       pg_get_userbyid(c.relowner) = current_user
  FROM pg_class c
 WHERE c.oid = %s;

-- not_carried --
-- What belongs to a table and would change what happens to other tables if green had it as well.
SELECT 'foreign key ' || quote_ident(conname) || ' (adding it would lock the table it refers to)'
  FROM pg_constraint
 WHERE conrelid = %(oid)s AND contype = 'f'
UNION ALL
SELECT 'trigger ' || quote_ident(tgname)
  FROM pg_trigger
 WHERE tgrelid = %(oid)s AND NOT tgisinternal
UNION ALL
SELECT 'rule ' || quote_ident(rulename)
  FROM pg_rewrite
 WHERE ev_class = %(oid)s AND rulename <> '_RETURN'
UNION ALL
SELECT 'membership of publication ' || quote_ident(p.pubname)
  FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
 WHERE r.prrelid = %(oid)s
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
