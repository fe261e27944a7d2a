-- made_of --
-- What the last rebuild into a version was made of.
SELECT l.detail
  FROM esops.rebuilds r
  JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(event)s
 WHERE r.projection = %(projection)s AND r.to_version = %(version)s
 ORDER BY r.rebuild DESC, l.at DESC
 LIMIT 1;

-- last_rate --
-- How many events a second the last rebuild of a projection that came to its end has applied, in
-- its working time.
SELECT (l.detail ->> 'of')::float / r.seconds
  FROM esops.rebuilds r
  JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(event)s
 WHERE (%(projection)s::text IS NULL OR r.projection = %(projection)s)
   AND r.seconds > 0 AND (l.detail ->> 'of')::float > 0 AND r.finished_at IS NOT NULL
   AND r.state IN ('switched', 'retired', 'rolled-back', 'rebuilt', 'tested')
 ORDER BY r.rebuild DESC
 LIMIT 1;
