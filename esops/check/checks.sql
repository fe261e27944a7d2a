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
-- What is right now is not to be healed again; `healed` counts each row once.
WITH gone AS (
    DELETE FROM esops.check_keys k
     USING (SELECT * FROM unnest(%(tables)s::text[], %(keys)s::text[]) AS t(name, key)) AS done
     WHERE k.check_id = %(id)s AND k.table_name = done.name AND k.key = done.key::text[]
    RETURNING 1)
UPDATE esops.checks SET healed = healed + (SELECT count(*) FROM gone) WHERE id = %(id)s;

-- forget --
-- The keys of older checks: rows have changed since.
DELETE FROM esops.check_keys
 WHERE check_id IN (SELECT id FROM esops.checks WHERE projection = %(projection)s
                     ORDER BY id DESC OFFSET %(kept)s);

-- keys --
SELECT table_name, key, kind FROM esops.check_keys WHERE check_id = %s ORDER BY 1, 2;

-- one --
SELECT id, projection, version, state, differing, unchecked, healed, position, started_at
  FROM esops.checks WHERE id = %s;

-- latest --
-- The last one of a projection that came to its end.
SELECT id AS "check", projection, version, position, checked AS keys, differing, unchecked, healed,
       seconds, started_at, finished_at
  FROM esops.checks
 WHERE projection = %s AND state = 'done'
 ORDER BY id DESC
 LIMIT 1;
