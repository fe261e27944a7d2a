-- versions --
-- The newer columns by name: an older esops may have made the table.
SELECT projection, version, state, store, position, events, rows, tables, fingerprint, value_types,
       after_load, updated_at, to_jsonb(v) ->> 'lost', to_jsonb(v) -> 'applied',
       coalesce((to_jsonb(v) ->> 'fence')::bigint, 0), to_jsonb(v) -> 'relations'
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

-- note_code --
UPDATE esops.versions SET fingerprint = %s
 WHERE projection = %s AND version = %s AND fingerprint = %s;

-- add_rows --
UPDATE esops.versions
   SET rows = rows + %s, value_types = %s
 WHERE projection = %s AND version = %s;

-- forget_mark --
DELETE FROM esops.marks WHERE projection = %s AND version = %s;

-- forget_older_marks --
DELETE FROM esops.older_marks WHERE projection = %s AND version = %s;

-- forget_spills --
DELETE FROM esops.spills WHERE projection = %s AND version = %s;
