-- hold --
SELECT pg_advisory_lock_shared(hashtextextended(%s, 0));

-- begin --
-- Of one that began before there was a place for it: when it began, by the database's clock.
INSERT INTO esops.actions (id, at, os_user, host, pid, esops, command, subject, projections,
                           options)
VALUES (%(id)s, clock_timestamp() - make_interval(secs => %(age)s), %(os_user)s, %(host)s, %(pid)s, %(esops)s, %(command)s, %(subject)s,
        %(projections)s, %(options)s)
ON CONFLICT (id) DO NOTHING;

-- end --
UPDATE esops.actions
   SET result = %(result)s, exit_code = %(exit_code)s, ended_at = clock_timestamp(),
       subject = %(subject)s, projections = %(projections)s
 WHERE id = %(id)s;

-- prune --
-- By command: a process that a supervisor starts again and again must not push out who switched.
DELETE FROM esops.actions
 WHERE id IN (SELECT id FROM esops.actions WHERE command = %(command)s AND id <> %(id)s
               ORDER BY at DESC OFFSET %(kept)s);

-- newest --
SELECT id::text, at, role, os_user, host, command, subject, projections, options, result, exit_code,
       ended_at, esops
  FROM esops.actions
 WHERE (%(projection)s::text IS NULL OR %(projection)s = ANY (projections))
   AND (%(since)s::interval IS NULL OR at >= clock_timestamp() - %(since)s::interval)
 ORDER BY at DESC LIMIT %(last)s;

-- at_work --
-- Which of these actions have a session that holds their lock; none is known on a replica, where
-- the primary's locks do not show. A key of 64 bits stands in pg_locks as two halves.
SELECT pg_is_in_recovery(),
       ARRAY(SELECT id FROM unnest(%(ids)s::text[]) AS id,
                    LATERAL (SELECT hashtextextended('esops:action:' || id, 0) AS key) k
              WHERE EXISTS (SELECT FROM pg_locks l
                             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                               AND l.database = (SELECT oid FROM pg_database
                                                  WHERE datname = current_database())
                               AND l.classid::bigint = ((k.key >> 32) & 4294967295)
                               AND l.objid::bigint = (k.key & 4294967295)));

-- of_ids --
SELECT id::text, at, role, os_user, host, command, subject, projections, options, result, exit_code,
       ended_at, esops
  FROM esops.actions WHERE id = ANY (%(ids)s::uuid[]);
