-- versions --
SELECT projection, version, state, store, position, events, rows, tables, fingerprint, value_types,
       after_load, updated_at
  FROM esops.versions
 WHERE %(projection)s::text IS NULL OR projection = %(projection)s
 ORDER BY projection, version;

-- insert --
INSERT INTO esops.versions (projection, version, state, store, position, events, rows, tables,
                            fingerprint, after_load)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s);

-- set_state --
UPDATE esops.versions
   SET state = %s, updated_at = now()
 WHERE projection = %s AND version = %s;

-- drop_shards --
DELETE FROM esops.shards WHERE projection = %s AND version = %s;

-- set_active --
INSERT INTO esops.projections (projection, active_version, previous_version)
VALUES (%s, %s, %s)
ON CONFLICT (projection) DO UPDATE
   SET active_version = EXCLUDED.active_version,
       previous_version = EXCLUDED.previous_version,
       updated_at = now();

-- position --
SELECT position FROM esops.versions WHERE projection = %s AND version = %s;

-- lock_checkpoint --
SELECT position FROM esops.versions WHERE projection = %s AND version = %s FOR UPDATE;

-- move_checkpoint --
-- Compare-and-set: only from the checkpoint and the tables that the writer knows of.
UPDATE esops.versions
   SET position = %(new)s, events = events + %(events)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s
   AND position IS NOT DISTINCT FROM %(old)s AND tables = %(tables)s
   AND state IN ('building', 'standby', 'active');

-- clear_checkpoint --
UPDATE esops.versions
   SET position = NULL, events = 0, fingerprint = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- release --
UPDATE esops.versions
   SET position = NULL, fingerprint = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- reset --
UPDATE esops.versions
   SET position = NULL, events = 0, rows = 0, value_types = '{}', fingerprint = %s,
       updated_at = now()
 WHERE projection = %s AND version = %s;

-- add_rows --
UPDATE esops.versions
   SET rows = rows + %s, value_types = %s
 WHERE projection = %s AND version = %s;
