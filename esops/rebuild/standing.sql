-- noted --
-- What is in the rows of a version that the application wrote until the last switch away from it.
SELECT l.detail
FROM esops.rebuilds r
JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(stands)s
WHERE r.projection = %(projection)s AND (l.detail ->> 'version')::integer = %(version)s
ORDER BY l.at DESC
LIMIT 1;

-- take_up --
-- From now on esops advances a version that stood still.
UPDATE esops.versions
   SET position = %(position)s, fingerprint = %(code)s, events = events + %(events)s,
       value_types = value_types || %(types)s, updated_at = now()
 WHERE projection = %(projection)s AND version = %(version)s;
