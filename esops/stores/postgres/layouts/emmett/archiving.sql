-- guard --
-- The streams that are there and that no writer has locked: stream, tenant, version, archived.
SELECT k.stream, k.tenant, s.stream_position, s.is_archived FROM {streams} s JOIN {k} ON {of_streams}
ORDER BY s.is_archived DESC FOR UPDATE OF s SKIP LOCKED

-- head_limits --
-- Up to where the head of a stream can go: its last message stays. Its row is not locked, so that no
-- writer waits.
SELECT k.stream, k.tenant, m.stream_position - 1 FROM {k} CROSS JOIN LATERAL (
    SELECT m.stream_position FROM {messages} m WHERE {of_messages} AND m.is_archived = FALSE
    ORDER BY m.stream_position DESC LIMIT 1) AS m

-- archive_events --
-- Messages move to the archived partition.
UPDATE {messages} m SET is_archived = TRUE FROM {k} WHERE {of_messages} AND m.is_archived = FALSE

-- archive_streams --
-- Streams take no more events.
UPDATE {streams} s SET is_archived = TRUE FROM {k} WHERE {of_streams} AND s.is_archived = FALSE

-- keep_streams --
-- Streams stay without their messages, so that nobody begins another one of that name.
UPDATE {streams} s SET stream_metadata = s.stream_metadata
    || jsonb_build_object('esops', jsonb_build_object('removed', s.stream_position))
FROM {k} WHERE {of_streams} AND s.is_archived = FALSE

-- note_removed --
-- How many messages have left a stream that stayed, where some came back; nothing where all did.
UPDATE {streams} s SET stream_metadata = CASE WHEN lowest.stream_position = 1
    THEN s.stream_metadata - 'esops' ELSE s.stream_metadata
    || jsonb_build_object('esops', jsonb_build_object('removed', lowest.stream_position - 1)) END
FROM {k} CROSS JOIN LATERAL (SELECT m.stream_position FROM {messages} m
    WHERE {of_messages} AND m.is_archived = FALSE ORDER BY m.stream_position LIMIT 1) AS lowest
WHERE {of_streams} AND s.is_archived = FALSE AND s.stream_metadata ? 'esops'

-- revive_events --
-- Messages come back from the archived partition.
UPDATE {messages} m SET is_archived = FALSE FROM {k} WHERE {of_messages} AND m.is_archived = TRUE

-- revive_streams --
-- Streams take events again.
UPDATE {streams} s SET is_archived = FALSE FROM {k} WHERE {of_streams} AND s.is_archived = TRUE

-- twice --
-- The streams whose names were used again after others of these names had been archived.
SELECT k.stream, k.tenant FROM {streams} s JOIN {k} ON {of_streams}
GROUP BY 1, 2 HAVING bool_or(s.is_archived) AND bool_or(NOT s.is_archived)

-- row --
-- Each stream's own row as JSON, of a name that was used again that of the stream that bears it now;
-- its name tells its category. No join: the planner would read the table from its beginning for each
-- group of streams.
SELECT s.stream_id, {own_tenant}, row_to_json(s)::text, NULL FROM {streams} s
WHERE s.stream_id = ANY(%(stream)s::text[]) AND s.partition = {any_partition}
ORDER BY s.is_archived DESC

-- advance --
-- A stream's row that is behind its newest message, as where the database was restored to an earlier
-- time: the next append would take a version again.
UPDATE {streams} s SET stream_position = newest.stream_position
FROM {k} CROSS JOIN LATERAL (SELECT m.stream_position FROM {messages} m WHERE {of_messages}
    ORDER BY m.stream_position DESC LIMIT 1) AS newest
WHERE {of_streams} AND s.stream_position < newest.stream_position
