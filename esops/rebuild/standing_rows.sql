-- random --
-- Some rows of a table, at random: of a large one those of some pages.
SELECT {key} FROM {table} AS l {sample} ORDER BY random() LIMIT {most}

-- pages --
SELECT pg_relation_size({table}::regclass) / current_setting('block_size')::bigint

-- only_here --
-- Rows that the version that serves does not have.
SELECT {key} FROM {table} AS l
 WHERE NOT EXISTS (SELECT FROM {serving} AS f WHERE {same}) LIMIT {most}
