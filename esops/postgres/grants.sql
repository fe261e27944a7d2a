-- rights --
-- The rights on a relation or routine, on the whole of it or on one column, after its owner; where
-- nobody ever gave or took one, those that it has by itself. The owner's are those of -1.
WITH object AS (
    SELECT c.relowner AS owner,
           coalesce(c.relacl, acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char",
                                         c.relowner)) AS acl
      FROM pg_class c WHERE c.oid = %(oid)s AND %(kind)s <> 'ROUTINE'
    UNION ALL
    SELECT p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
      FROM pg_proc p WHERE p.oid = %(oid)s AND %(kind)s = 'ROUTINE'
), entry AS (
    SELECT o.owner, NULL::name AS column_name, a.*
      FROM object o LEFT JOIN LATERAL aclexplode(o.acl) a ON true
    UNION ALL
    SELECT o.owner, t.attname, a.*
      FROM object o, pg_attribute t, aclexplode(t.attacl) a
     WHERE t.attrelid = %(oid)s AND NOT t.attisdropped AND %(kind)s = 'TABLE'
)
SELECT owner::bigint, privilege_type, column_name,
       CASE grantee WHEN owner THEN -1 ELSE grantee::bigint END, bool_or(is_grantable)
  FROM entry
 GROUP BY owner, privilege_type, column_name, grantee;

-- default_rights --
-- The rights on what this role creates in a schema: ALTER DEFAULT PRIVILEGES replaces those that it
-- has by itself, and adds more in one schema.
WITH me AS (
    SELECT current_user::regrole::oid AS owner,
           (CASE %(kind)s::text WHEN 'SEQUENCE' THEN 'S' WHEN 'ROUTINE' THEN 'f' ELSE 'r' END)::"char"
               AS of_default,
           (CASE %(kind)s::text WHEN 'SEQUENCE' THEN 's' WHEN 'ROUTINE' THEN 'f' ELSE 'r' END)::"char"
               AS of_acl
), entry AS (
    SELECT me.owner, a.*
      FROM me
      LEFT JOIN pg_default_acl d ON d.defaclrole = me.owner AND d.defaclobjtype = me.of_default
                                AND d.defaclnamespace = 0
      LEFT JOIN LATERAL aclexplode(coalesce(d.defaclacl, acldefault(me.of_acl, me.owner))) a ON true
    UNION ALL
    SELECT me.owner, a.*
      FROM me
      JOIN pg_default_acl d ON d.defaclrole = me.owner AND d.defaclobjtype = me.of_default
                           AND d.defaclnamespace = to_regnamespace(quote_ident(%(schema)s)),
           aclexplode(d.defaclacl) a
)
SELECT owner::bigint, privilege_type, NULL,
       CASE grantee WHEN owner THEN -1 ELSE grantee::bigint END, bool_or(is_grantable)
  FROM entry
 GROUP BY owner, privilege_type, grantee;

-- grantees --
SELECT g::bigint, CASE g WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g::oid)) END
  FROM unnest(%(grantees)s::bigint[]) g;

-- is_superuser --
SELECT rolsuper FROM pg_roles WHERE rolname = current_user;

-- given_by_others --
-- The rights that somebody with the grant option gave on.
WITH entry AS (
    SELECT c.relowner AS owner, a.*
      FROM pg_class c, aclexplode(c.relacl) a
     WHERE c.oid = %(oid)s AND %(kind)s <> 'ROUTINE'
    UNION
    SELECT c.relowner, a.*
      FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid AND NOT t.attisdropped,
           aclexplode(t.attacl) a
     WHERE c.oid = %(oid)s AND %(kind)s <> 'ROUTINE'
    UNION
    SELECT p.proowner, a.*
      FROM pg_proc p, aclexplode(p.proacl) a
     WHERE p.oid = %(oid)s AND %(kind)s = 'ROUTINE'
)
SELECT format('%%s of %%s, given by %%s', a.privilege_type,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
              quote_ident(pg_get_userbyid(a.grantor)))
  FROM entry a
 WHERE a.grantor <> a.owner
 ORDER BY 1;
