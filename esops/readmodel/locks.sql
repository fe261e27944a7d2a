-- take --
-- The lock, and the part in the lock of the whole database that everybody has who holds one. The
-- order of the two does not matter: who has not got both gives the one back.
SELECT pg_try_advisory_lock(hashtextextended(%(lock)s, 0)),
       pg_try_advisory_lock_shared(hashtextextended(%(whole)s, 0));

-- held --
-- Whether there is a holder, without asking who that is.
SELECT EXISTS (
    SELECT FROM pg_locks l, hashtextextended(%s, 0) AS k (key)
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND l.classid::bigint = ((k.key >> 32) & 4294967295)
       AND l.objid::bigint = (k.key & 4294967295));

-- holder --
-- An advisory lock's 64-bit key stands in pg_locks as two halves, classid and objid; objsubid is 1
-- for keys of that kind.
WITH k AS (SELECT hashtextextended(%s, 0) AS key)
SELECT l.pid, coalesce(a.application_name, ''),
       coalesce(host(a.client_addr), 'a local socket'), a.backend_start
  FROM k, pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.classid::bigint = ((k.key >> 32) & 4294967295)
   AND l.objid::bigint = (k.key & 4294967295);
