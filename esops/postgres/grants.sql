-- grants --
-- The rights on a relation, whole and by column, of everybody but its owner.
SELECT format('GRANT %%s%%s ON %%s TO %%s%%s',
              g.privilege_type, g.columns, %(target)s::text,
              CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
              CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM (SELECT a.privilege_type, '' AS columns, a.grantee, a.is_grantable, c.relowner
          FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.oid = %(oid)s
        UNION ALL
        SELECT a.privilege_type, ' (' || string_agg(quote_ident(t.attname), ', ') || ')',
               a.grantee, a.is_grantable, c.relowner
          FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid, aclexplode(t.attacl) a
         WHERE c.oid = %(oid)s
         GROUP BY a.privilege_type, a.grantee, a.is_grantable, c.relowner) g
 WHERE g.grantee <> g.relowner
 ORDER BY 1;
