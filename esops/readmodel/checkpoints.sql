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
       relations = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- release --
UPDATE esops.versions
   SET position = NULL, fingerprint = NULL, applied = NULL, relations = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- reset --
UPDATE esops.versions
   SET position = NULL, events = 0, rows = 0, value_types = '{}', fingerprint = %s,
       applied = NULL, lost = NULL, relations = NULL, updated_at = now()
 WHERE projection = %s AND version = %s;

-- set_back --
-- Compare-and-set, for a version of which nothing was applied after the new checkpoint.
UPDATE esops.versions
   SET position = %(new)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s AND position = %(old)s;

-- forget_dead_letters --
DELETE FROM esops.dead_letters WHERE projection = %s AND version = %s;

-- restore --
-- Only while the ranges have the checkpoint of the version: it has none of its own.
UPDATE esops.versions
   SET position = %(position)s, events = %(events)s, fingerprint = %(fingerprint)s,
       applied = %(applied)s, lost = %(lost)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s
   AND position IS NULL AND fingerprint IS NULL AND state = 'active';

-- forget_newest_mark --
DELETE FROM esops.marks WHERE projection = %s AND version = %s;

-- forget_older_marks --
DELETE FROM esops.older_marks WHERE projection = %s AND version = %s;
