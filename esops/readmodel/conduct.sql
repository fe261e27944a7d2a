-- notes --
-- Of the rebuild that made the version what it is; what came before a new beginning counts no more.
SELECT l.at, l.event, l.detail
  FROM esops.rebuild_log l
 WHERE l.event = ANY(%(events)s)
   AND l.rebuild = (SELECT max(r.rebuild) FROM esops.rebuilds r
                     WHERE r.projection = %(projection)s AND r.to_version = %(version)s AND r.state <> 'aborted')
 ORDER BY l.at;

-- add --
INSERT INTO esops.rebuild_log (rebuild, step, event, detail)
SELECT max(r.rebuild), %(step)s, %(event)s, %(detail)s
  FROM esops.rebuilds r
 WHERE r.projection = %(projection)s AND r.to_version = %(version)s AND r.state <> 'aborted'
HAVING max(r.rebuild) IS NOT NULL;
