-- blockers --
-- Which sessions hold a lock on some relations, the longest transaction first.
SELECT DISTINCT l.pid, coalesce(a.application_name, ''), a.xact_start
FROM pg_locks l
LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.relation = ANY(SELECT to_regclass(unnest(%s::text[])))
    AND l.granted
    AND l.pid <> pg_backend_pid()
ORDER BY 3
LIMIT 3;
