-- raise --
UPDATE esops.versions SET fence = fence + 1 WHERE projection = %s AND version = %s;

-- read --
SELECT fence FROM esops.versions WHERE projection = %s AND version = %s;

-- say --
SELECT pg_try_advisory_lock_shared(hashtextextended(%s, 0));

-- unfenced --
-- An advisory lock's 64-bit key stands in pg_locks as two halves, classid and objid; objsubid is 1
-- for keys of that kind.
WITH k AS (SELECT hashtextextended(%s, 0) AS fence, hashtextextended(%s, 0) AS key),
     held AS MATERIALIZED (
         SELECT l.pid, (l.classid::bigint << 32) | l.objid::bigint AS key
           FROM pg_locks l
          WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
            AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))
SELECT h.pid, coalesce(a.application_name, ''),
       coalesce(host(a.client_addr), 'a local socket'), a.backend_start
  FROM k JOIN held h ON h.key = k.key LEFT JOIN pg_stat_activity a USING (pid)
 WHERE NOT EXISTS (SELECT FROM held f WHERE f.pid = h.pid AND f.key = k.fence);
