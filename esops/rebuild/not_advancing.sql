-- blocking --
-- The sessions that one session waits for, through whatever lock that is.
SELECT b.pid, coalesce(nullif(b.application_name, ''), 'a session'), coalesce(b.state, 'running'),
       b.xact_start
  FROM unnest(pg_blocking_pids(%(pid)s)) AS waits(pid)
  JOIN pg_stat_activity b ON b.pid = waits.pid
 ORDER BY b.xact_start NULLS LAST
 LIMIT 3;
