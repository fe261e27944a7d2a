-- blockers --
-- Who holds a lock on some relations, the longest transaction first. A prepared transaction has no
-- session; its number is that of the lock that it has on itself.
SELECT DISTINCT l.pid, coalesce(p.gid, a.application_name, ''), coalesce(p.prepared, a.xact_start),
       p.owner::text, CASE WHEN p.gid IS NOT NULL THEN format('ROLLBACK PREPARED %%L', p.gid) END
FROM pg_locks l
LEFT JOIN pg_stat_activity a USING (pid)
LEFT JOIN pg_locks t
       ON l.pid IS NULL AND t.pid IS NULL AND t.locktype = 'transactionid'
      AND t.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = t.transactionid
WHERE l.relation = ANY(SELECT to_regclass(unnest(%(names)s::text[])))
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.granted
    AND l.mode <> ALL(%(harmless)s::text[])
    AND l.pid IS DISTINCT FROM pg_backend_pid()
ORDER BY 3
LIMIT 3;
