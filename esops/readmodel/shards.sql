-- shards --
SELECT shard, of, until, position, events, rows, value_types
  FROM esops.shards
 WHERE projection = %s AND version = %s
 ORDER BY shard;

-- create --
INSERT INTO esops.shards (projection, version, shard, of, until)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING;

-- move --
-- Compare-and-set, and only while the version is still being built: after an abort, a worker that
-- is late must not write.
UPDATE esops.shards s
   SET position = %(new)s, events = s.events + %(events)s, updated_at = now()
  FROM esops.versions v
 WHERE s.projection = %(projection)s AND s.version = %(version)s AND shard = %(shard)s
   AND s.position IS NOT DISTINCT FROM %(old)s
   AND v.projection = s.projection AND v.version = s.version AND v.state = 'building';

-- add_rows --
-- That columns or types came late (the entry without a name) stays, whatever comes afterwards.
UPDATE esops.shards
   SET rows = rows + %s,
       value_types = %s || CASE WHEN value_types ? '' THEN '{"": "yes"}'::jsonb ELSE '{}' END
 WHERE projection = %s AND version = %s AND shard = %s;

-- finish_range --
UPDATE esops.shards
   SET position = until, events = %s, rows = %s, value_types = %s, updated_at = now()
 WHERE projection = %s AND version = %s AND shard = %s;

-- move_dead_letters --
UPDATE esops.dead_letters SET version = %s WHERE projection = %s AND version = %s;

-- merge --
-- A version that is loaded by shards has no checkpoint of its own until they are merged.
UPDATE esops.versions
   SET position = %s, events = %s, rows = %s, value_types = %s, fingerprint = %s,
       updated_at = now()
 WHERE projection = %s AND version = %s
   AND position IS NULL AND state IN ('building', 'active');

-- delete --
DELETE FROM esops.shards WHERE projection = %s AND version = %s;
