-- shape --
-- What tells the columns of a table from others, in a moment.
SELECT string_agg(concat_ws(':', attname, atttypid, atttypmod, attcollation, attgenerated), '/'
                  ORDER BY attnum)
  FROM pg_attribute
 WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped

-- delete_equal --
-- Events that are as the archive has them are deleted. A row that a transaction is changing is
-- waited for, and compared again as it is then.
DELETE FROM {events} AS e
USING unnest(%(stream)s::text[], %(tenant)s::text[], {arrays}) AS k (stream, tenant, {names})
WHERE {of_stream} AND {same_version}
  AND {equal}

-- lock_equal --
-- Events that are as the archive has them are locked, so that they stay so until they have gone.
WITH held AS (
    SELECT k.stream, k.tenant
      FROM unnest(%(stream)s::text[], %(tenant)s::text[], {arrays}) AS k (stream, tenant, {names})
      JOIN {events} AS e ON {of_stream} AND {same_version}
     WHERE {equal}
       FOR UPDATE OF e)
SELECT stream, tenant, count(*) FROM held GROUP BY 1, 2

-- differing --
-- Events that are not as the archive has them, and the columns in which they differ.
SELECT k.stream, k.tenant, {version}::bigint, array_remove(ARRAY[{different}]::text[], NULL)
  FROM unnest(%(stream)s::text[], %(tenant)s::text[], {arrays}) AS k (stream, tenant, {names})
  JOIN {events} AS e ON {of_stream} AND {same_version}
 WHERE NOT ({equal})
 ORDER BY 1, 2, 3 LIMIT 100
