-- types --
-- These types, and what each is made of: what is below a domain, in an array, in a row, between the
-- bounds of a range. Asked for one level after the other: the planner takes a recursive query over
-- all levels for so expensive that the server compiles it (JIT), for 0.1 s and more.
SELECT t.oid::bigint,
       CASE WHEN n.nspname = 'pg_catalog' THEN t.typname::text
            WHEN t.typtype = 'e' THEN 'anyenum' ELSE '' END AS name,
       CASE WHEN t.typsubscript = 'array_subscript_handler'::regproc AND t.typtype = 'b' THEN 'a'
            ELSE t.typtype::text END AS kind,
       format_type(t.typbasetype, t.typtypmod) AS below_a_domain,
       t.typtypmod AS modifier,
       ARRAY(SELECT a.attname::text
               FROM pg_attribute a
              WHERE t.typtype = 'c' AND a.attrelid = t.typrelid
                AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum) AS names,
       CASE WHEN t.typtype = 'd' THEN ARRAY[t.typbasetype::bigint]
            WHEN t.typtype = 'r' THEN
                 ARRAY(SELECT r.rngsubtype::bigint FROM pg_range r WHERE r.rngtypid = t.oid)
            WHEN t.typtype = 'm' THEN
                 ARRAY(SELECT r.rngtypid::bigint FROM pg_range r WHERE r.rngmultitypid = t.oid)
            WHEN t.typtype = 'c' THEN
                 ARRAY(SELECT a.atttypid::bigint
                         FROM pg_attribute a
                        WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                        ORDER BY a.attnum)
            WHEN t.typtype = 'b' AND t.typsubscript = 'array_subscript_handler'::regproc THEN
                 ARRAY[t.typelem::bigint]
            ELSE '{}' END AS parts
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.oid = ANY(%(types)s::oid[]);

-- columns --
SELECT a.attname::text, a.atttypid::bigint, a.atttypmod,
       format_type(a.atttypid, a.atttypmod), a.attcollation::bigint
  FROM pg_attribute a
 WHERE a.attrelid = %(table)s AND a.attnum > 0 AND NOT a.attisdropped;
