-- held_locks --
-- Which of some advisory locks (64 bits) somebody else holds or waits for in this database.
SELECT n FROM unnest(%(locks)s::bigint[]) AS n
WHERE EXISTS (
    SELECT FROM pg_locks l WHERE l.locktype = 'advisory' AND l.objsubid = 1
        AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND l.classid = ((n >> 32) & 4294967295)::oid AND l.objid = (n & 4294967295)::oid
        AND l.pid <> pg_backend_pid())

-- touched --
-- The rows that a daemon touches while it idles, of those that were touched lately. Where Marten keeps
-- more of its progress, that is a heartbeat, too.
SELECT name, extract(epoch FROM clock_timestamp() - touched)::float8 FROM (
    SELECT name, greatest(last_updated, (to_jsonb(p) ->> 'heartbeat')::timestamptz) AS touched
    FROM {progression} p
) AS rows
WHERE (name = %(name)s OR split_part(name, ':', 1) = ANY(%(idles)s))
    AND touched > clock_timestamp() - %(within)s
ORDER BY touched DESC

-- sessions --
-- Sessions that do what only a daemon does, now or not long ago: it looks at least each second. A
-- statement that has not ended, and a transaction that has not, are signs of life for as long as
-- they last. A statement that may not be seen (NULL, or the text of Postgres for it) is one that may
-- be a daemon's, and so is one whose end was cut off. `own` comes before the tables of this schema:
-- names of another schema are those of another store. Behind a pooler a daemon may have the label of
-- an esops that had the session before; but esops puts each name into quotes, and Marten does not.
SELECT pid, usename, application_name, seen, state = 'idle' AS idle FROM (
    SELECT *, coalesce(query <> '<insufficient privilege>' AND state <> 'disabled', FALSE) AS seen,
        query ~* '^\s*(with|select)\y' AND query !~* '\ynextval\s*\(' AS reads,
        octet_length(query) >= pg_size_bytes(current_setting('track_activity_query_size')) - 1
            AS cut,
        CASE WHEN labelled THEN %(unquoted)s::text ELSE %(own)s::text END AS own
    FROM (
        SELECT pid, usename, application_name, state, query, state_change,
            coalesce(application_name, '') LIKE 'esops %%' AS labelled
        FROM pg_stat_activity
        WHERE datname = current_database() AND usename IS NOT NULL AND pid <> pg_backend_pid()
            AND coalesce(backend_type, 'client backend') = 'client backend'
    ) AS sessions
) AS a
WHERE (NOT seen AND NOT labelled
        OR query ~* (own || 'mt_event_progression\y')
        OR reads AND query ~* (own || 'mt_events_sequence\y')
        OR reads AND query ~* (own || 'mt_events\y') AND query !~* '\ystream_id"?\s*='
            AND (cut OR query ~* '(\yseq_id"?\s*>|max\s*\(\s*("?\w+"?\.)?"?seq_id)'))
    AND (state_change IS NULL OR state <> 'idle'
        OR state_change > clock_timestamp() - %(within)s)
ORDER BY seen DESC, pid
