-- view --
-- The options of a view, its query, and the two forms that Postgres writes a plain SELECT of these
-- columns in: until 15 with the table's name before each, from 16 on without.
SELECT array_to_string(v.reloptions, ', '),
       pg_get_viewdef(v.oid),
       (SELECT array_agg(' SELECT ' || c.columns || E'\n   FROM ' || %(table)s::oid::regclass::text
                         || ';')
          FROM (SELECT string_agg(quote_ident(a.attname), E',\n    ' ORDER BY a.attnum)
                  FROM pg_attribute a
                 WHERE a.attrelid = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT string_agg(quote_ident(t.relname) || '.' || quote_ident(a.attname),
                                  E',\n    ' ORDER BY a.attnum)
                  FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
                 WHERE a.attrelid = %(table)s AND a.attnum > 0 AND NOT a.attisdropped)
               AS c (columns))
  FROM pg_class v
 WHERE v.oid = %(view)s;

-- options --
SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s AND relkind = 'v';

-- comments --
SELECT quote_ident(attname), col_description(attrelid, attnum)
  FROM pg_attribute
 WHERE attrelid = %(oid)s AND attnum > 0 AND attname = ANY(%(columns)s)
   AND col_description(attrelid, attnum) IS NOT NULL
 ORDER BY attnum;
