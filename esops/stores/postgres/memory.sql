-- there --
-- Whether the tables are there and may be read, and whether the schema is there. By the catalogue, for
-- to_regclass is an error for whoever may not look into the schema.
SELECT count(*) FILTER (WHERE has_schema_privilege(n.oid, 'USAGE')
                              AND has_table_privilege(c.oid, 'SELECT')) = 3,
       EXISTS (SELECT FROM pg_namespace WHERE nspname = 'esops')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'esops' AND c.relname IN ('sightings', 'passed', 'late_events');

-- lock --
-- Whoever makes esops' tables takes this lock.
SELECT pg_advisory_xact_lock(hashtextextended('esops:install', 0));

-- recall --
SELECT number, extract(epoch FROM first_at)::float8, extract(epoch FROM last_at)::float8,
       extract(epoch FROM clock_timestamp())::float8
  FROM esops.sightings WHERE log = %(log)s AND sequence = %(sequence)s AND number <= %(drawn)s
 ORDER BY number;

-- see --
INSERT INTO esops.sightings (log, sequence, number, first_at, last_at)
SELECT %(log)s, %(sequence)s, number, to_timestamp(first), to_timestamp(last)
  FROM unnest(%(numbers)s::bigint[], %(first)s::float8[], %(last)s::float8[])
       AS seen (number, first, last)
ON CONFLICT (log, number) DO UPDATE
   SET sequence = EXCLUDED.sequence, last_at = EXCLUDED.last_at,
       first_at = CASE WHEN sightings.sequence = EXCLUDED.sequence THEN sightings.first_at
                       ELSE EXCLUDED.first_at END;

-- unsee --
-- Keeps the last sighting below what is missing, which tells since when it was drawn, and of the rest
-- as many as are of use: those between are thinned, not the first or the newest.
DELETE FROM esops.sightings s
 USING (SELECT number, row_number() OVER (ORDER BY number) AS place, count(*) OVER () AS many,
               lead(number) OVER (ORDER BY number) AS following
          FROM esops.sightings WHERE log = %(log)s) AS p
 WHERE s.log = %(log)s AND s.number = p.number
   AND (s.sequence <> %(sequence)s OR p.following <= %(through)s OR s.number > %(drawn)s
        OR (p.many > %(most)s AND p.place %% 2 = 1 AND p.place BETWEEN 3 AND p.many - 2));

-- pass --
INSERT INTO esops.passed (log, sequence, first, last, evidence)
SELECT %(log)s, %(sequence)s, first, last, evidence
  FROM unnest(%(first)s::bigint[], %(last)s::bigint[], %(evidence)s::text[])
       AS passed (first, last, evidence)
ON CONFLICT DO NOTHING;

-- unpass --
-- Those beyond what the sequence has given out, and all but the newest. Not those of a sequence that
-- was dropped and made again: what comes at their numbers comes late, too.
DELETE FROM esops.passed
 WHERE log = %(log)s
   AND (last > %(drawn)s
        OR first < (SELECT first FROM esops.passed WHERE log = %(log)s
                     ORDER BY first DESC OFFSET %(most)s LIMIT 1));

-- note_late --
INSERT INTO esops.late_events (log, number, passed_at)
SELECT %(log)s, number, passed_at
  FROM unnest(%(numbers)s::bigint[], %(passed_at)s::timestamptz[]) AS late (number, passed_at)
ON CONFLICT DO NOTHING;

-- known_late --
SELECT number, passed_at, found_at FROM esops.late_events WHERE log = %(log)s
 ORDER BY number DESC LIMIT %(most)s;

-- forget --
-- Restored events are no late ones.
DELETE FROM esops.passed p
 WHERE log = %(log)s
   AND EXISTS (SELECT FROM unnest(%(numbers)s::bigint[]) AS restored (number)
                WHERE restored.number BETWEEN p.first AND p.last);

-- may_forget --
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'esops' AND c.relname = 'passed'
       AND has_schema_privilege(n.oid, 'USAGE')
       AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'DELETE'));
