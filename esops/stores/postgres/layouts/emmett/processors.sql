-- stands --
-- Where a processor certainly stands, in the order of esops: the last message before the
-- first that it may still have to read. Those are the messages after the pair `bound`, in the
-- library's order, and where the library keeps a number alone those of higher numbers as well.
-- `bound` is the pair that was kept, or that of the last message up to the number: the message of
-- the number itself may be gone. A projector keeps a number over `types` alone (all others it passes
-- without a trace): then only settled messages count, since a lower one may still come.
WITH bound AS (
    SELECT transaction_id, global_position FROM {messages}
    WHERE partition = %(partition)s AND %(transaction)s::text IS NULL
        AND global_position <= %(number)s
    ORDER BY global_position DESC LIMIT 1
), ends AS (
    SELECT transaction_id, global_position FROM bound
    UNION ALL SELECT %(transaction)s::text::xid8, %(number)s::bigint
    WHERE %(transaction)s::text IS NOT NULL
), unread AS (
    SELECT m.transaction_id, m.global_position FROM {messages} m CROSS JOIN ends
    WHERE m.partition = %(partition)s AND (
        (m.transaction_id, m.global_position) > (ends.transaction_id, ends.global_position)
        OR %(transaction)s::text IS NULL AND m.global_position > %(number)s)
        AND (%(types)s::text[] IS NULL OR m.message_type = ANY(%(types)s))
    ORDER BY {order_of_m} LIMIT 1
)
SELECT {selected} FROM {messages} m
WHERE m.partition = %(partition)s AND EXISTS (SELECT FROM ends)
    AND (%(types)s::text[] IS NULL
        OR m.transaction_id < pg_snapshot_xmin(pg_current_snapshot()))
    AND NOT EXISTS (SELECT FROM unread WHERE ({order_of_m}) >= ({order_of_unread}))
ORDER BY {backwards} LIMIT 1

-- stream_at --
-- The stream of the message with a number.
SELECT stream_id FROM {messages} WHERE partition = %(partition)s AND global_position = %(number)s

-- beyond --
-- Whether a transaction has not begun in this cluster, though a checkpoint has its id. After a
-- restore from a dump, messages may be from such transactions as well.
SELECT %(transaction)s::text::xid8 >= pg_snapshot_xmax(pg_current_snapshot())
    AND NOT EXISTS (SELECT FROM {messages} m WHERE m.transaction_id >= %(transaction)s::text::xid8)

-- handled --
-- The types of messages that projections handle, by name and partition.
SELECT name, partition, definition -> 'canHandle' FROM {projections}
WHERE jsonb_typeof(definition -> 'canHandle') = 'array'

-- readers --
-- A session that reads new events as Emmett's consumers do, and whose last statement is not old: they
-- ask several times a second. It does not tell which processor it reads for.
SELECT pid, usename FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND coalesce(application_name, '') NOT LIKE 'esops %%'
   AND query ~ 'emt_messages' AND query ~ 'pg_snapshot_xmin'
   AND (state <> 'idle' OR state_change > clock_timestamp() - %(within)s)
 ORDER BY pid LIMIT 1
