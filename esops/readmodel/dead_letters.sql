-- list --
-- Of versions that are there: nobody reads the rows of the others.
SELECT d.version, d.position, event_id, stream, stream_version, type, error, at
  FROM esops.dead_letters d
  JOIN esops.versions v USING (projection, version)
 WHERE projection = %s AND v.state NOT IN ('retired', 'aborted')
 ORDER BY d.version, at, d.position
 LIMIT %s;

-- counts --
SELECT version, count(*) FROM esops.dead_letters WHERE projection = %s GROUP BY version;

-- of_version --
SELECT position FROM esops.dead_letters WHERE projection = %s AND version = %s;

-- remove --
DELETE FROM esops.dead_letters WHERE projection = %s AND version = %s AND position = ANY(%s);

-- fails_still --
UPDATE esops.dead_letters SET error = %s
 WHERE projection = %s AND version = %s AND position = %s;

-- discard --
DELETE FROM esops.dead_letters WHERE projection = %s RETURNING version, position;

-- record --
-- An event that was recorded before a crash comes again after it.
INSERT INTO esops.dead_letters (projection, version, position, event_id, stream, stream_version,
                                type, error)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING;
