-- tables --
-- Esops' own tables that are about a projection, whatever later versions of esops add.
SELECT c.relname
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE n.nspname = 'esops' AND c.relkind IN ('r', 'p')
   AND a.attname = 'projection' AND NOT a.attisdropped
 ORDER BY 1;

-- move --
UPDATE esops.{table} SET projection = {new} WHERE projection = {old};

-- controls --
-- What was asked for under the new name already goes with what was asked for before.
WITH asked AS (
    DELETE FROM esops.controls WHERE projection = {new}
    RETURNING paused, postponed, limits, by)
INSERT INTO esops.controls AS c (projection, paused, postponed, limits, by)
SELECT {old}, paused, postponed, limits, by FROM asked
ON CONFLICT (projection) DO UPDATE
   SET paused = c.paused OR EXCLUDED.paused, postponed = c.postponed OR EXCLUDED.postponed,
       limits = c.limits || EXCLUDED.limits, by = EXCLUDED.by, updated_at = now();

-- hold --
SELECT FROM esops.versions WHERE projection = {old} ORDER BY version FOR UPDATE;
