-- differences --
-- By how much the last event of a stream is dated later than the stream's last append, of the newest
-- events. A snapshot has the time when it took the place of others.
SELECT e.timestamp - s.timestamp
FROM (SELECT * FROM {events} ORDER BY seq_id DESC LIMIT %(limit)s) AS e
JOIN {streams} s ON {same} AND s.version = e.version
WHERE isfinite(e.timestamp) AND isfinite(s.timestamp) AND e.type <> 'tombstone'
    AND lower(e.type) NOT LIKE 'compacted%%'
