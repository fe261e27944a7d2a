-- keys_and_indexes --
-- A constraint and its index are one entry; the primary key comes first.
SELECT c.relname, pg_get_indexdef(i.indexrelid), con.conname, pg_get_constraintdef(con.oid),
       i.indisprimary,
       obj_description(i.indexrelid, 'pg_class'), obj_description(con.oid, 'pg_constraint')
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %s
 ORDER BY i.indisprimary DESC, c.relname;

-- exists --
SELECT EXISTS (SELECT
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE i.indrelid = %s AND c.relname = %s);
