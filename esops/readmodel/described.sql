-- indexes --
-- What the indexes of a table have beside their definition: the comments on them and on their
-- constraints, the mark of CLUSTER and of the replica identity, the tablespace, the statistics
-- targets of their columns.
SELECT c.relname, con.conname,
       obj_description(i.indexrelid, 'pg_class'), obj_description(con.oid, 'pg_constraint'),
       i.indisclustered, i.indisreplident, quote_ident(s.spcname),
       (SELECT array_agg(ARRAY[a.attnum, a.attstattarget]::int[] ORDER BY a.attnum)
          FROM pg_attribute a
         WHERE a.attrelid = i.indexrelid AND coalesce(a.attstattarget, -1) <> -1)
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %(table)s
 ORDER BY c.relname;

-- statistics --
-- What extended statistics of a table have beside their definition: the target, the comment, and the
-- owner where that is not this role and this role may say so.
SELECT n.nspname, e.stxname, nullif(e.stxstattarget, -1), obj_description(e.oid, 'pg_statistic_ext'),
       CASE WHEN e.stxowner <> current_user::regrole AND pg_has_role(e.stxowner, 'MEMBER')
                 AND (me.rolsuper OR has_schema_privilege(e.stxowner, n.oid, 'CREATE'))
            THEN quote_ident(pg_get_userbyid(e.stxowner)) END
  FROM pg_statistic_ext e
  JOIN pg_namespace n ON n.oid = e.stxnamespace
  JOIN pg_roles me ON me.rolname = current_user
 WHERE e.stxrelid = %(table)s
 ORDER BY e.stxname;

-- owners_lost --
-- Extended statistics whose owner this role cannot make the owner of others.
SELECT format('owner %%I of statistics %%I', pg_get_userbyid(e.stxowner), e.stxname)
  FROM pg_statistic_ext e
  JOIN pg_roles me ON me.rolname = current_user
 WHERE e.stxrelid = %(table)s AND e.stxowner <> current_user::regrole
   AND NOT (pg_has_role(e.stxowner, 'MEMBER')
            AND (me.rolsuper OR has_schema_privilege(e.stxowner, e.stxnamespace, 'CREATE')))
 ORDER BY 1;

-- tablespace --
SELECT current_setting('default_tablespace') <> '';
