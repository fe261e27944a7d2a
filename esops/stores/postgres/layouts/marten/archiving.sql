-- guard --
-- The streams that are there and that no writer has locked: stream, tenant, version, archived.
SELECT k.stream, k.tenant, s.version, s.is_archived IS TRUE FROM {streams} s JOIN {k} ON {of_streams}
ORDER BY s.is_archived DESC FOR UPDATE OF s SKIP LOCKED

-- head_limits --
-- Up to where the head of a stream can go: its last event stays. Its row is not locked, so that no
-- writer waits.
SELECT k.stream, k.tenant, e.version - 1 FROM {k} CROSS JOIN LATERAL (
    SELECT e.version FROM {events} e WHERE {of_events}{and_not_archived}
    ORDER BY e.version DESC LIMIT 1) AS e

-- tombstone --
-- A stream whose events are deleted takes no more.
UPDATE {streams} s SET is_archived = TRUE FROM {k} WHERE {of_streams} AND s.is_archived IS NOT TRUE

-- archive --
-- Marten's own function, for each stream.
SELECT {archive}({arguments}) FROM {k}

-- revive_streams --
-- Streams take events again, where the mark is no part of their key.
UPDATE {streams} s SET is_archived = FALSE FROM {k} WHERE {of_streams} AND s.is_archived

-- revive_events --
-- Events come back from the archived partition.
UPDATE {events} e SET is_archived = FALSE FROM {k} WHERE {of_events} AND e.is_archived

-- copy_streams --
-- Where the mark is part of a stream's key, and of the events' foreign key: its row is copied before
-- the events move, and deleted after.
INSERT INTO {streams} ({others}, is_archived) OVERRIDING SYSTEM VALUE SELECT {theirs}, FALSE
FROM {streams} s JOIN {k} ON {of_streams} WHERE s.is_archived

-- delete_streams --
-- The archived rows, after the events have moved to the copies.
DELETE FROM {streams} s USING {k} WHERE {of_streams} AND s.is_archived

-- twice --
-- The streams whose ids were used again after others of these ids had been archived.
SELECT k.stream, k.tenant FROM {streams} s JOIN {k} ON {of_streams}
GROUP BY 1, 2 HAVING bool_or(s.is_archived) AND bool_or(s.is_archived IS NOT TRUE)

-- row --
-- Each stream's own row as JSON, of an id that was used again that of the stream that bears it now,
-- and its categories: the aggregate type, and with text ids what stands before the first `-`. No join: the planner would read the table from its beginning for each
-- group of streams.
SELECT s.id::text, {own_tenant}, row_to_json(s)::text,
    to_json(array_remove(ARRAY[{by_name}nullif(s.type, {prefix})]::text[], NULL))::text
FROM {streams} s
WHERE s.id = ANY(%(stream)s::{kind}[]){and_any_tenant}
ORDER BY s.is_archived IS TRUE DESC

-- advance --
-- A stream's row that is behind its newest event, as where the database was restored to an earlier
-- time: the next append would take a version again.
UPDATE {streams} s SET version = newest.version
FROM {k} CROSS JOIN LATERAL (SELECT e.version FROM {events} e WHERE {of_events}
    ORDER BY e.version DESC LIMIT 1) AS newest
WHERE {of_streams} AND s.version < newest.version
