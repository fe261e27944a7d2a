-- died --
-- Of checks that did not end, those of processes of this host that are there no more.
UPDATE esops.checks SET state = 'failed', reason = 'its process was killed'
 WHERE projection = %(projection)s AND state = 'running' AND host = %(host)s AND pid = ANY(%(dead)s);

-- running --
SELECT pid FROM esops.checks
 WHERE projection = %(projection)s AND state = 'running' AND host = %(host)s;

-- begin --
INSERT INTO esops.checks (projection, version, state, asked, host, pid)
VALUES (%(projection)s, %(version)s, 'running', %(asked)s, %(host)s, %(pid)s)
RETURNING id;

-- end --
UPDATE esops.checks
   SET state = %(state)s, position = %(position)s, checked = %(checked)s, of_keys = %(of)s,
       differing = %(differing)s, missing = %(missing)s, surplus = %(surplus)s,
       unchecked = %(unchecked)s, columns = %(columns)s, samples = %(samples)s,
       reason = %(reason)s, seconds = %(seconds)s, finished_at = now()
 WHERE id = %(id)s;

-- keep --
INSERT INTO esops.check_keys (check_id, table_name, key, kind) VALUES (%s, %s, %s, %s)
ON CONFLICT DO NOTHING;

-- healed --
-- What is right now is not to be healed again, whichever check found it; `healed` counts each row
-- once.
WITH gone AS (
    DELETE FROM esops.check_keys k
     USING (SELECT * FROM unnest(%(tables)s::text[], %(keys)s::text[]) AS t(name, key)) AS done,
           esops.checks c, esops.checks this
     WHERE this.id = %(id)s AND c.projection = this.projection
       AND c.version IS NOT DISTINCT FROM this.version AND k.check_id = c.id
       AND k.table_name = done.name AND k.key = done.key::text[]
    RETURNING k.check_id),
counted AS (SELECT check_id, count(*) AS rows FROM gone GROUP BY check_id)
UPDATE esops.checks c SET healed = c.healed + counted.rows FROM counted WHERE c.id = counted.check_id;

-- right --
-- Keys that earlier checks found wrong, and this one right.
DELETE FROM esops.check_keys k
 USING (SELECT * FROM unnest(%(tables)s::text[], %(keys)s::text[]) AS t(name, key)) AS done,
       esops.checks c, esops.checks this
 WHERE this.id = %(id)s AND c.projection = this.projection
   AND c.version IS NOT DISTINCT FROM this.version AND c.id < this.id AND k.check_id = c.id
   AND k.table_name = done.name AND k.key = done.key::text[];

-- drop --
-- Keys that were found wrong, and are right now.
WITH gone AS (
    DELETE FROM esops.check_keys k
     USING (SELECT * FROM unnest(%(tables)s::text[], %(keys)s::text[]) AS t(name, key)) AS done,
           esops.checks c
     WHERE c.projection = %(projection)s AND c.version IS NOT DISTINCT FROM %(version)s
       AND k.check_id = c.id AND k.table_name = done.name AND k.key = done.key::text[]
    RETURNING k.check_id),
counted AS (SELECT check_id, count(*) AS rows FROM gone GROUP BY check_id)
UPDATE esops.checks c SET healed = c.healed + counted.rows FROM counted WHERE c.id = counted.check_id;

-- forget_keys --
DELETE FROM esops.check_keys k
 USING unnest(%(keys)s::text[]) AS erased(key) WHERE k.key = erased.key::text[];

-- open --
-- The keys that checks of a version have found wrong, and that nobody has found right since.
SELECT DISTINCT k.table_name, k.key
  FROM esops.check_keys k JOIN esops.checks c ON c.id = k.check_id
 WHERE c.projection = %(projection)s AND c.version IS NOT DISTINCT FROM %(version)s
 LIMIT %(most)s;

-- forget --
-- Of older checks, the keys that a newer one found wrong, too, and those of other versions.
DELETE FROM esops.check_keys k
 USING esops.checks c
 WHERE c.id = k.check_id AND c.projection = %(projection)s
   AND c.id NOT IN (SELECT id FROM esops.checks WHERE projection = %(projection)s
                     ORDER BY id DESC LIMIT %(kept)s)
   AND (c.version IS DISTINCT FROM %(version)s
        OR EXISTS (SELECT FROM esops.check_keys n JOIN esops.checks l ON l.id = n.check_id
                    WHERE l.projection = c.projection AND l.id > c.id
                      AND l.version IS NOT DISTINCT FROM c.version
                      AND n.table_name = k.table_name AND n.key = k.key));

-- keys --
SELECT table_name, key, kind FROM esops.check_keys WHERE check_id = %s ORDER BY 1, 2;

-- one --
SELECT id, projection, version, state, differing, unchecked, healed, position, started_at
  FROM esops.checks WHERE id = %s;

-- latest --
-- The last one of a projection that came to its end; one of named keys only where there is no other,
-- since it says nothing of the read model as a whole. And what checks have found wrong in the version
-- that serves, as far as nobody has found it right since: how many rows, and the last such check.
WITH serving AS (
    SELECT (SELECT version FROM esops.versions WHERE projection = %(projection)s AND state = 'active')
           AS version),
open AS (
    SELECT count(*) AS wrong, max(id) AS check
      FROM (SELECT k.table_name, k.key, max(c.id) AS id
              FROM esops.check_keys k JOIN esops.checks c ON c.id = k.check_id, serving s
             WHERE c.projection = %(projection)s AND c.version IS NOT DISTINCT FROM s.version
             GROUP BY 1, 2) AS each)
SELECT c.id AS "check", c.projection, c.version, c.position, c.checked AS keys, c.differing,
       c.unchecked, c.healed, c.seconds, c.started_at, c.finished_at,
       -- Of more than are kept by their keys, their number is known from the check alone.
       CASE WHEN c.differing > %(most)s AND c.version IS NOT DISTINCT FROM s.version
            THEN greatest(open.wrong, c.differing - c.healed) ELSE open.wrong END AS wrong,
       open.check AS wrong_by
  FROM esops.checks c, serving s, open
 WHERE c.projection = %(projection)s AND c.state = 'done'
 ORDER BY c.asked ? 'sample' DESC, c.id DESC
 LIMIT 1;
