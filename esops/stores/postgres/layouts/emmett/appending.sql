-- make --
-- The stream's row, where there is none.
INSERT INTO {streams} (stream_id, stream_position, partition, stream_type, stream_metadata, is_archived)
SELECT %(stream)s, 0, {partition}, split_part(%(stream)s, '-', 1), '{{}}', FALSE
WHERE NOT EXISTS (SELECT FROM {streams} WHERE stream_id = %(stream)s AND partition = {partition})
ON CONFLICT DO NOTHING

-- lock --
-- Its version, and whether it is archived: a stream may have a row in each partition of is_archived.
SELECT stream_position, is_archived FROM {streams}
WHERE stream_id = %(stream)s AND partition = {partition}
ORDER BY is_archived DESC LIMIT 1 FOR UPDATE

-- insert --
-- A message with its transaction's id, as Emmett's append function writes it.
INSERT INTO {messages} (stream_id, stream_position, partition, message_kind, message_schema_version,
                        message_id, message_type, message_data, message_metadata, created,
                        transaction_id)
VALUES (%(stream)s, %(version)s, {partition}, 'E', '1',
        %(id)s, %(type)s, %(data)s::jsonb, %(metadata)s::jsonb,
        coalesce(%(recorded_at)s::timestamptz, now()), pg_current_xact_id())
RETURNING {number}

-- move --
-- The stream's new version.
UPDATE {streams} SET stream_position = %(version)s
WHERE stream_id = %(stream)s AND partition = {partition}
