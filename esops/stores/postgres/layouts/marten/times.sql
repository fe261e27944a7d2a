-- appends --
-- When streams were last appended to. Where an id was used again, the later of the two.
SELECT s.id::text, {own_tenant}, max(s.timestamp) FROM {streams} s
WHERE s.id = ANY(%(stream)s::{kind}[]){and_any_tenant} AND s.timestamp > '-infinity' GROUP BY 1, 2

-- append --
-- The same of one stream, and the time of its last event.
SELECT s.timestamp, e.timestamp FROM {streams} s LEFT JOIN {events} e ON {same} AND {not_compacted}
WHERE s.id = %(stream)s::{kind}{and_own_tenant} AND s.timestamp > '-infinity'
ORDER BY s.timestamp DESC LIMIT 1

-- furthest --
-- By how much the last event of any stream is dated earlier than the stream's last append, where
-- that is the offset of a time zone.
SELECT max(apart) FROM (SELECT s.timestamp - e.timestamp AS apart
    FROM {streams} s JOIN {events} e ON {same}
    WHERE {of_streams} AND {not_compacted} AND isfinite(e.timestamp) AND isfinite(s.timestamp)) AS d
WHERE apart BETWEEN %(quarter)s - %(near)s AND %(most)s + %(near)s
    AND abs(extract(epoch FROM apart) - 900 * round(extract(epoch FROM apart) / 900))
        <= extract(epoch FROM %(near)s)

-- newest --
-- Of the streams that the newest events are the last ones of: by how much that event is dated later
-- than the stream's last append, the first event than the stream's row was made, and whether the
-- last one lies in the future. A snapshot has the time when it took the place of others.
SELECT e.timestamp - s.timestamp, (SELECT f.timestamp - s.created FROM {events} f
        WHERE {same_first} AND f.version = 1 AND isfinite(f.timestamp) LIMIT 1),
    e.timestamp > now() + %(near)s
FROM (SELECT * FROM (SELECT * FROM {events} WHERE {numbered} ORDER BY seq_id DESC LIMIT %(read)s)
        AS r WHERE {scope} ORDER BY seq_id DESC LIMIT %(limit)s) AS e
JOIN {streams} s ON {same}
WHERE {not_compacted} AND isfinite(e.timestamp) AND isfinite(s.timestamp) AND isfinite(s.created)
