-- has_index --
-- Whether an index of a table, or of one of its partitions, begins with these columns in order.
SELECT EXISTS (
    SELECT FROM pg_partition_tree(%s::regclass) t
    JOIN pg_index i ON i.indrelid = t.relid
    WHERE (
        SELECT array_agg(a.attname::text ORDER BY k.n)
        FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE k.n <= i.indnkeyatts AND k.n <= %s
    ) = %s
);

-- hidden_rows --
-- The tables whose policies apply to this role, and their owners.
SELECT n.nspname || '.' || c.relname, pg_get_userbyid(c.relowner)
  FROM unnest(%s::text[]) AS asked (name)
  JOIN pg_class c ON c.oid = to_regclass(asked.name)
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relrowsecurity AND row_security_active(c.oid)
 ORDER BY 1;

-- tables_of_versions --
-- Tables in a schema that have the name of a version of a read model, such as carts__v3.
SELECT relname
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND c.relname ~ ('^' || %s || '__v[0-9]+$')
ORDER BY 1;

-- slots --
-- How much WAL each replication slot keeps, and how much more may come before it is lost.
SELECT slot_name, active, wal_status,
       pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint,
       safe_wal_size
FROM pg_replication_slots
WHERE restart_lsn IS NOT NULL
ORDER BY 1;

-- replicas --
-- How far each replica is behind, in bytes of WAL and in time.
SELECT coalesce(nullif(application_name, ''), client_addr::text, pid::text),
       pg_wal_lsn_diff(pg_current_wal_lsn(), coalesce(replay_lsn, flush_lsn))::bigint,
       coalesce(replay_lag, flush_lag)
FROM pg_stat_replication
WHERE state IN ('streaming', 'catchup') AND coalesce(replay_lsn, flush_lsn) IS NOT NULL
ORDER BY 1;
