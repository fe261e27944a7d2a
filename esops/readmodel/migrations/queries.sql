-- counted --
-- The quick question, which comes before every other one. Where it says no, the next one is asked.
SELECT to_regclass('esops.schema_migrations') IS NOT NULL;

-- recognise --
-- Whether the steps are counted here; and where they are not, the last one by what is there. Read from
-- pg_class, for to_regclass may answer from a cache that is older than the lock we have waited for.
SELECT 'schema_migrations' = ANY(there),
       CASE WHEN 'marks' = ANY(there) THEN 4
            WHEN 'shards' = ANY(there) THEN 3
            WHEN 'controls' = ANY(there) THEN 2
            WHEN 'rebuild_log' = ANY(there) THEN 1
            ELSE 0 END
  FROM (SELECT ARRAY(SELECT c.relname::text
                       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                      WHERE n.nspname = 'esops' AND c.relkind = 'r') AS there) tables;

-- last_step --
SELECT coalesce(max(number), 0) FROM esops.schema_migrations;

-- lock --
-- Older versions of esops take the same lock, so that they wait as well.
SELECT pg_advisory_xact_lock(hashtextextended('esops:install', 0));

-- there_already --
-- The schema and its tables, for CREATE SCHEMA IF NOT EXISTS asks for CREATE on the database even
-- where there is nothing to create; and the table, with its owner where that is somebody else, whose
-- rights new tables get.
SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'esops'),
       ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE n.nspname = 'esops' AND c.relkind = 'r'),
       (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'esops' AND c.relname = 'versions'),
       (SELECT pg_get_userbyid(c.relowner)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'esops' AND c.relname = 'versions'
           AND pg_get_userbyid(c.relowner) <> current_user);

-- create_schema_migrations --
CREATE TABLE IF NOT EXISTS esops.schema_migrations (
    number integer PRIMARY KEY,
    esops  text NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);

-- record --
-- Steps of a time before they were counted are entered with those that were run now.
INSERT INTO esops.schema_migrations (number, esops)
SELECT number, %s FROM generate_series(1, %s) AS number ON CONFLICT DO NOTHING;

-- two_active --
-- What an older esops could do: several versions are noted as serving.
SELECT v.projection, array_agg(v.version ORDER BY v.version), min(p.active_version)
  FROM esops.versions v LEFT JOIN esops.projections p USING (projection)
 WHERE v.state = 'active'
 GROUP BY 1 HAVING count(*) > 1 ORDER BY 1;

-- owner_of_schema --
SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'esops';
