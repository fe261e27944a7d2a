-- rights --
-- The rights on a relation of everybody but its owner: on the whole of it, or on one column.
SELECT a.privilege_type, NULL, a.grantee::bigint, a.is_grantable
  FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.oid = %(oid)s AND a.grantee <> c.relowner
UNION
SELECT a.privilege_type, t.attname, a.grantee::bigint, a.is_grantable
  FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
 WHERE c.oid = %(oid)s AND a.grantee <> c.relowner AND NOT t.attisdropped
 ORDER BY 1, 2, 3;

-- default_rights --
-- The rights that ALTER DEFAULT PRIVILEGES gives on a relation that this role creates in a schema.
SELECT DISTINCT a.privilege_type, NULL, a.grantee::bigint, a.is_grantable
  FROM pg_default_acl d, aclexplode(d.defaclacl) a
 WHERE d.defaclrole = current_user::regrole AND d.defaclobjtype = 'r'
   AND (d.defaclnamespace = 0
        OR d.defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s))
   AND a.grantee <> d.defaclrole
 ORDER BY 1, 2, 3;

-- grantees --
SELECT g::bigint, CASE g WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g::oid)) END
  FROM unnest(%(grantees)s::bigint[]) g;

-- given_by_others --
-- The rights that somebody with the grant option gave on.
SELECT format('%%s of %%s, given by %%s', a.privilege_type,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
              quote_ident(pg_get_userbyid(a.grantor)))
  FROM pg_class c, aclexplode(c.relacl) a
 WHERE c.oid = %(oid)s AND a.grantor <> c.relowner
 ORDER BY 1;
