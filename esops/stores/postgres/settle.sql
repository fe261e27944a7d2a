-- lockers --
-- The transactions that hold such a lock on these relations now. Weaker modes are those of readers.
SELECT DISTINCT virtualtransaction
  FROM pg_locks
 WHERE locktype = 'relation'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND relation IN (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))
                    UNION SELECT to_regclass(%(table)s) UNION SELECT %(sequence)s::oid)
   AND granted AND pid IS DISTINCT FROM pg_backend_pid()
   AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                'AccessExclusiveLock');

-- who --
-- What the sessions behind those transactions are doing, for an operator.
SELECT l.virtualtransaction, l.pid, a.usename, a.application_name, a.state, a.xact_start,
       left(regexp_replace(a.query, '\s+', ' ', 'g'), 120)
  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation'
   AND l.relation IN (SELECT relid FROM pg_partition_tree(to_regclass(%(table)s))
                      UNION SELECT to_regclass(%(table)s) UNION SELECT %(sequence)s::oid)
   AND l.virtualtransaction = ANY(%(waited)s)
 ORDER BY a.xact_start NULLS FIRST;

-- oldest_transactions --
SELECT pid, usename, application_name, state, xact_start,
       left(regexp_replace(query, '\s+', ' ', 'g'), 120)
  FROM pg_stat_activity
 WHERE backend_xid IS NOT NULL
UNION ALL
SELECT NULL, owner, gid, 'prepared', prepared, ''
  FROM pg_prepared_xacts
 ORDER BY 5 LIMIT 5;
