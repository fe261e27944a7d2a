-- copy --
-- A temporary table like another one, but for its foreign keys.
CREATE TEMPORARY TABLE {copy} (LIKE {table} INCLUDING ALL) ON COMMIT DROP

-- other_events --
-- Events that came out otherwise than they are in the store, and the columns.
SELECT {stream}::text, {version}::bigint, array_remove(ARRAY[{different}]::text[], NULL)
  FROM {copy} AS t JOIN {table} AS e ON {same}
 WHERE t::text IS DISTINCT FROM e::text
 ORDER BY 1, 2 LIMIT 100

-- other_streams --
-- A stream's row that came out otherwise than it is in the store, where it is as it was archived.
SELECT array_remove(ARRAY[{different}]::text[], NULL)
  FROM {copy} AS t JOIN {table} AS e ON {same}
 WHERE t::text IS DISTINCT FROM e::text AND row_to_json(e)::text = ANY(%(row)s::text[])
 LIMIT 1
