-- set_up --
-- All names with their schema: until this has run, the search path is the role's.
SELECT pg_catalog.current_setting('server_encoding'),
       pg_catalog.pg_is_in_recovery(),
       -- By this lock esops tells its own sessions from those of others, whatever they call themselves.
       pg_catalog.pg_try_advisory_lock_shared(pg_catalog.hashtextextended('esops:session', 0)),
       -- Exit code 0 says that it is done, so a commit has to be on disk; how many replicas it
       -- waits for stays as it is.
       pg_catalog.set_config(
           'synchronous_commit',
           CASE pg_catalog.current_setting('synchronous_commit')
               WHEN 'off' THEN 'on' ELSE pg_catalog.current_setting('synchronous_commit') END,
           false),
       {settings}
 WHERE {condition};

-- keep_path --
-- The role's own path, kept for what runs SQL of the user. Without pg_catalog, which then comes
-- first: nothing of the user's stands before a function of the server.
pg_catalog.set_config(
    'esops.path',
    pg_catalog.array_to_string(ARRAY(
        SELECT part
          FROM pg_catalog.unnest(pg_catalog.string_to_array(
                   pg_catalog.current_setting('search_path'), ',')) AS parts (part)
         WHERE pg_catalog.btrim(part, ' "') OPERATOR(pg_catalog.<>) 'pg_catalog'
    ), ','),
    false);

-- set_path --
pg_catalog.set_config('search_path', {}, false);

-- own_path --
-- For the transaction that the connection is in.
SELECT set_config('search_path', current_setting('esops.path'), true);

-- ours --
-- The server processes of esops' own sessions in this database, without their parallel workers.
(SELECT l.pid
   FROM pg_locks l, hashtextextended('esops:session', 0) AS k (key)
  WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = ((k.key >> 32) & 4294967295)
    AND l.objid::bigint = (k.key & 4294967295))
