-- keys_and_indexes --
-- A constraint and its index are one entry; the primary key comes first.
SELECT c.relname,
       -- Of an index with partitions the server says ONLY, which would leave them out.
       CASE c.relkind
            WHEN 'I' THEN overlay(pg_get_indexdef(i.indexrelid) PLACING ' ON '
                                  FROM length(begins.text) + 1 FOR length(' ON ONLY '))
            ELSE pg_get_indexdef(i.indexrelid) END,
       con.conname, pg_get_constraintdef(con.oid),
       i.indisprimary
  FROM pg_index i
  JOIN pg_class c ON c.oid = i.indexrelid
 CROSS JOIN LATERAL (SELECT concat('CREATE ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, 'INDEX ',
                                   quote_ident(c.relname))) AS begins (text)
  LEFT JOIN pg_constraint con
         ON con.conindid = i.indexrelid AND con.conrelid = i.indrelid
        AND con.contype IN ('p', 'u', 'x')
 WHERE i.indrelid = %s
 ORDER BY i.indisprimary DESC, c.relname;

-- not_valid --
-- Checks and NOT NULL that older rows need not fulfil.
SELECT quote_ident(conname), conname, pg_get_constraintdef(oid),
       obj_description(oid, 'pg_constraint')
  FROM pg_constraint
 WHERE conrelid = %s AND contype IN ('c', 'n') AND pg_get_constraintdef(oid) LIKE '%% NOT VALID'
 ORDER BY conname;

-- foreign_keys_within --
-- Foreign keys between some tables, or of one to itself.
SELECT t.relname, format('%%I.%%I', n.nspname, t.relname), quote_ident(c.conname), c.conname,
       pg_get_constraintdef(c.oid), obj_description(c.oid, 'pg_constraint')
  FROM pg_constraint c
  JOIN pg_class t ON t.oid = c.conrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE c.contype = 'f' AND c.conparentid = 0
   AND c.conrelid = ANY(%(tables)s) AND c.confrelid = ANY(%(tables)s)
 ORDER BY t.relname, c.conname;

-- index_exists --
SELECT EXISTS (SELECT
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                WHERE i.indrelid = %s AND c.relname = %s);

-- constraint_exists --
SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = %s AND conname = %s);
