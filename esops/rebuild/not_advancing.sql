-- against --
-- The sessions that one session waits for, through whatever lock that is; and those that hold a lock
-- on a version's tables against writers, for whom it tries again and again.
SELECT b.pid, coalesce(nullif(b.application_name, ''), 'a session'), coalesce(b.state, 'running'),
       b.xact_start
  FROM pg_stat_activity b
 WHERE b.pid = ANY(pg_blocking_pids(%(pid)s))
    OR b.pid IN (SELECT l.pid
                   FROM pg_locks l
                   JOIN pg_class c ON c.oid = l.relation
                   JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE l.granted AND l.locktype = 'relation' AND l.pid <> %(pid)s
                    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                    AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                                   'AccessExclusiveLock')
                    AND n.nspname || '.' || c.relname = ANY(%(tables)s))
 ORDER BY b.xact_start NULLS LAST
 LIMIT 3;
