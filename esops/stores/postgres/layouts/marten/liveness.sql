-- held_locks --
-- Which of some advisory locks (64 bits) somebody else holds or waits for in this database.
SELECT n FROM unnest(%(locks)s::bigint[]) AS n
WHERE EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = ((n >> 32) & 4294967295)::oid AND l.objid = (n & 4294967295)::oid
        AND l.pid <> pg_backend_pid())

-- touched --
-- The rows that a daemon touches while it idles, of those that were touched lately.
SELECT name, extract(epoch FROM clock_timestamp() - last_updated)::float8 FROM {progression}
WHERE (name = %(name)s OR split_part(name, ':', 1) = ANY(%(idles)s))
    AND last_updated > clock_timestamp() - %(within)s
ORDER BY last_updated DESC

-- sessions --
-- Sessions that do what only a daemon does, and not long ago: it looks at least each second. A
-- statement that may not be seen (NULL, or the text of Postgres for it) is one that may be a
-- daemon's.
SELECT pid, usename, application_name, seen FROM (
    SELECT pid, usename, application_name,
        coalesce(query <> '<insufficient privilege>' AND state <> 'disabled', FALSE) AS seen,
        query, state_change
    FROM pg_stat_activity
    WHERE datname = current_database() AND usename IS NOT NULL AND pid <> pg_backend_pid()
        AND coalesce(backend_type, 'client backend') = 'client backend'
        AND coalesce(application_name, '') NOT LIKE 'esops %%'
) AS a
WHERE (NOT seen OR query ~* '\ymt_event_progression\y' OR query ~* '\ymt_events_sequence\y'
        OR (query ~* '^\s*select' AND query ~* '\ymt_events\y'
            AND query ~* '(\yseq_id"?\s*>|max\s*\(\s*("?\w+"?\.)?"?seq_id)'))
    AND (state_change IS NULL OR state_change > clock_timestamp() - %(within)s)
ORDER BY seen DESC, pid
