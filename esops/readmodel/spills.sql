-- spills --
SELECT spill, shard, host, directory, fingerprint, fresh, until, partitions, partition, done, stale
  FROM esops.spills
 WHERE projection = %s AND version = %s
 ORDER BY shard;

-- known --
SELECT spill FROM esops.spills;

-- begin --
INSERT INTO esops.spills (projection, version, shard, spill, host, directory, fingerprint, fresh,
                          partitions)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s);

-- complete --
UPDATE esops.spills SET until = %s WHERE spill = %s AND until IS NULL AND stale IS NULL;

-- advance --
-- Compare-and-set, as of a checkpoint.
UPDATE esops.spills
   SET partition = %(partition)s, done = %(done)s
 WHERE spill = %(spill)s AND partition = %(old_partition)s AND done = %(old_done)s
   AND stale IS NULL;

-- end --
DELETE FROM esops.spills WHERE spill = %s AND stale IS NULL;

-- without --
-- With the rebuild, which is continued by its options.
UPDATE esops.rebuilds SET options = options || '{"spill": false}'
 WHERE projection = %s AND to_version = %s AND finished_at IS NULL;

-- is_without --
SELECT FROM esops.rebuilds
 WHERE projection = %s AND to_version = %s AND finished_at IS NULL
   AND options @> '{"spill": false}';

-- drop --
DELETE FROM esops.spills WHERE spill = %s;

-- outdate --
UPDATE esops.spills s SET stale = %s
  FROM esops.versions v
 WHERE v.projection = s.projection AND v.version = s.version AND v.store = %s
RETURNING s.spill, s.host, s.directory, s.projection;

-- add_events --
-- The checkpoint stays where it is; it is only locked, and must be where the writer knows it.
UPDATE esops.versions
   SET events = events + %(events)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s
   AND position IS NOT DISTINCT FROM %(position)s AND tables = %(tables)s AND state = 'building';

-- add_shard_events --
UPDATE esops.shards s
   SET events = s.events + %(events)s, updated_at = now()
  FROM esops.versions v
 WHERE s.projection = %(projection)s AND s.version = %(version)s AND shard = %(shard)s
   AND s.position IS NOT DISTINCT FROM %(position)s
   AND v.projection = s.projection AND v.version = s.version AND v.state = 'building';

-- reset_shard --
UPDATE esops.shards
   SET position = NULL, events = 0, rows = 0, value_types = '{}', updated_at = now()
 WHERE projection = %s AND version = %s AND shard = %s;
