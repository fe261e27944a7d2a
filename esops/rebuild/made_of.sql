-- made_of --
-- What the last rebuild into a version was made of. One in place that has not come to its end may
-- have made none of the rows yet.
SELECT l.detail
  FROM esops.rebuilds r
  JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(event)s
 WHERE r.projection = %(projection)s AND r.to_version = %(version)s
   AND (r.finished_at IS NOT NULL OR NOT coalesce((r.options ->> 'in_place')::boolean, false))
 ORDER BY r.rebuild DESC, l.at DESC
 LIMIT 1;

-- resumed --
-- With which settings the last rebuild into a version has continued.
SELECT l.detail -> 'settings'
  FROM esops.rebuild_log l
 WHERE l.event = %(resumed)s
   AND l.rebuild = (
       SELECT max(r.rebuild) FROM esops.rebuilds r
         JOIN esops.rebuild_log m ON m.rebuild = r.rebuild AND m.event = %(event)s
        WHERE r.projection = %(projection)s AND r.to_version = %(version)s
          AND (r.finished_at IS NOT NULL OR NOT coalesce((r.options ->> 'in_place')::boolean, false)))
 ORDER BY l.at;

-- last_rebuild --
-- How many events there were for the last rebuild of a projection that came to its end, and its
-- working time in seconds.
SELECT (l.detail ->> 'of')::float, r.seconds
  FROM esops.rebuilds r
  JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(event)s
 WHERE (%(projection)s::text IS NULL OR r.projection = %(projection)s)
   AND r.seconds > 0 AND (l.detail ->> 'of')::float > 0 AND r.finished_at IS NOT NULL
   AND r.state IN ('switched', 'retired', 'rolled-back', 'rebuilt', 'tested')
 ORDER BY r.rebuild DESC
 LIMIT 1;
