-- leaving --
-- Of a partition's key the one of the whole table tells enough.
SELECT DISTINCT quote_ident(conname), confrelid::regclass::text
  FROM pg_constraint
 WHERE contype = 'f' AND conparentid = 0
   AND conrelid = ANY(%(tables)s) AND confrelid <> ALL(%(tables)s)
 ORDER BY 1, 2;

-- defined --
SELECT conrelid, quote_ident(conname), pg_get_constraintdef(oid), confrelid,
       confrelid::regclass::text
  FROM pg_constraint
 WHERE contype = 'f' AND conrelid = ANY(%(tables)s)
 ORDER BY 1, 2;

-- there --
SELECT DISTINCT to_regclass(name)::text
  FROM unnest(%s::text[]) AS name
 WHERE to_regclass(name) IS NOT NULL
 ORDER BY 1;
