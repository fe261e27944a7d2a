-- versions --
-- The newer columns by name: an older esops may have made the table.
SELECT projection, version, state, store, position, events, rows, tables, fingerprint, value_types,
       after_load, updated_at, to_jsonb(v) ->> 'lost', to_jsonb(v) -> 'applied',
       coalesce((to_jsonb(v) ->> 'fence')::bigint, 0)
  FROM esops.versions v
 WHERE (%(projection)s::text IS NULL OR projection = %(projection)s)
   AND (%(version)s::integer IS NULL OR version = %(version)s)
 ORDER BY projection, version;

-- insert --
INSERT INTO esops.versions (projection, version, state, store, position, events, rows, tables,
                            fingerprint, after_load)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s);

-- set_state --
-- Compare-and-set: only from a state that the caller has looked at.
UPDATE esops.versions
   SET state = %(state)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s AND state = ANY(%(was)s);

-- drop_shards --
DELETE FROM esops.shards WHERE projection = %s AND version = %s;

-- set_active --
INSERT INTO esops.projections (projection, active_version, previous_version)
VALUES (%s, %s, %s)
ON CONFLICT (projection) DO UPDATE
   SET active_version = EXCLUDED.active_version,
       previous_version = EXCLUDED.previous_version,
       updated_at = now();

-- none_active --
UPDATE esops.projections SET active_version = NULL, updated_at = now()
 WHERE projection = %s AND active_version = %s;

-- position --
SELECT position FROM esops.versions WHERE projection = %s AND version = %s;

-- lock_checkpoint --
SELECT position FROM esops.versions WHERE projection = %s AND version = %s FOR UPDATE;

-- move_checkpoint --
-- Compare-and-set: only from the checkpoint, the tables and the fence that the writer knows of.
UPDATE esops.versions
   SET position = %(new)s, events = events + %(events)s, updated_at = now(),
       applied = coalesce(%(applied)s, applied)
 WHERE projection = %(projection)s AND version = %(version)s
   AND position IS NOT DISTINCT FROM %(old)s AND tables = %(tables)s AND fence = %(fence)s
   AND state IN ('building', 'standby', 'active');

-- clear_checkpoint --
UPDATE esops.versions
   SET position = NULL, events = 0, fingerprint = NULL, applied = NULL, lost = %s,
       updated_at = now()
 WHERE projection = %s AND version = %s;

-- release --
UPDATE esops.versions
   SET position = NULL, fingerprint = NULL, applied = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- reset --
UPDATE esops.versions
   SET position = NULL, events = 0, rows = 0, value_types = '{}', fingerprint = %s,
       applied = NULL, lost = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- note_code --
UPDATE esops.versions SET fingerprint = %s
 WHERE projection = %s AND version = %s AND fingerprint = %s;

-- add_rows --
UPDATE esops.versions
   SET rows = rows + %s, value_types = %s
 WHERE projection = %s AND version = %s;

-- set_back --
-- Compare-and-set, for a version of which nothing was applied after the new checkpoint.
UPDATE esops.versions
   SET position = %(new)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s AND position = %(old)s;

-- forget_dead_letters --
DELETE FROM esops.dead_letters WHERE projection = %s AND version = %s;

-- forget_mark --
DELETE FROM esops.marks WHERE projection = %s AND version = %s;

-- forget_older_marks --
DELETE FROM esops.older_marks WHERE projection = %s AND version = %s;

-- forget_spills --
DELETE FROM esops.spills WHERE projection = %s AND version = %s;
