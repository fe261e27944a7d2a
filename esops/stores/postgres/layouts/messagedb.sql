-- last_version --
-- The version that a stream is at.
SELECT coalesce(max(position), -1) FROM {messages} WHERE stream_name = %s

-- insert --
-- A message, as write_message writes it.
INSERT INTO {messages} (id, stream_name, position, type, data, metadata, time)
VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb, coalesce(%s::timestamptz, now()) AT TIME ZONE 'utc')
RETURNING global_position

-- checkpoints --
-- The newest Recorded message of each consumer's position stream.
SELECT DISTINCT ON (stream_name) stream_name, data->>'position',
    coalesce(data->>'position' ~ '^[0-9]{{1,18}}$', FALSE), time AT TIME ZONE 'utc'
FROM {messages} WHERE type = 'Recorded' AND stream_name ~ %s
ORDER BY stream_name, position DESC
