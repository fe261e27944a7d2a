-- written --
-- What the next two begin with: tables, with their partitions and those that inherit them.
WITH RECURSIVE tree (relation) AS (
    SELECT to_regclass(name)::oid FROM unnest(%(tables)s::text[]) AS name
    UNION
    SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.relation
)

-- lockers --
-- The transactions that hold such a lock now, or wait for it: a writer whose INSERT waits for an
-- index to be built has its number already. Weaker modes are those of readers.
SELECT DISTINCT virtualtransaction
  FROM pg_locks
 WHERE locktype = 'relation'
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND relation IN (SELECT relation FROM tree UNION ALL SELECT %(sequence)s::oid)
   AND pid IS DISTINCT FROM pg_backend_pid()
   AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                'AccessExclusiveLock');

-- who --
-- What the sessions behind those transactions are doing, for an operator.
SELECT DISTINCT l.virtualtransaction, l.pid, a.usename, a.application_name, a.state, a.xact_start,
       left(regexp_replace(a.query, '\s+', ' ', 'g'), 120)
  FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'relation'
   AND l.relation IN (SELECT relation FROM tree UNION ALL SELECT %(sequence)s::oid)
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
