-- processors --
-- The row of a processor. Locked until the end, none of its processes can register.
SELECT version, partition, last_processed_checkpoint, status, processor_instance_id, last_updated
FROM {processors}
WHERE processor_id = %(name)s AND version = %(version)s AND partition = %(partition)s
{lock}

-- names --
-- What tells the rows of some processors apart.
SELECT processor_id, version, partition FROM {processors}
WHERE (processor_id = ANY(%(names)s) OR %(names)s::text[] IS NULL)
    AND (%(only)s::text IS NULL OR partition = %(only)s)
ORDER BY 1, 2, 3

-- indexed --
-- Whether 0.43 has migrated these tables. The form of a checkpoint does not tell.
SELECT EXISTS (
    SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    WHERE i.indrelid = {messages}::regclass
        AND c.relname = 'idx_messages_transaction_id_global_position')

-- migrated --
-- The same, by the list of migrations.
SELECT EXISTS (SELECT FROM {migrations} WHERE name LIKE 'emt:postgresql:eventstore:0.43.0:%')

-- first_unread --
-- The first message that the application would miss if it continued behind it. Its readers skip
-- archived messages.
SELECT m.transaction_id::text::bigint, m.global_position FROM {messages} m
WHERE m.partition = %(partition)s AND NOT m.is_archived AND {unread}
ORDER BY {order_of_m} LIMIT 1

-- last_read --
-- The last message before a first one, or of all.
SELECT m.transaction_id::text::bigint, m.global_position FROM {messages} m
WHERE m.partition = %(partition)s AND NOT m.is_archived
    AND m.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    AND (%(first)s::bigint IS NULL OR (m.transaction_id, m.global_position)
        < (%(first_transaction)s::text::xid8, %(first)s::bigint))
ORDER BY m.transaction_id DESC, m.global_position DESC LIMIT 1

-- numbers --
-- For a number alone, in one pass over a table that has no index on it: the last message up to
-- `settled` before the first unread one, how many that were applied have a higher number than
-- that, and the numbers above `settled`: all, the partition's own, and of these the applied ones.
SELECT max(n) FILTER (WHERE own AND n <= %(settled)s AND (%(first)s::bigint IS NULL
           OR n < %(first)s)),
       count(*) FILTER (WHERE own AND applied AND n > %(first)s),
       coalesce(array_agg(n ORDER BY n) FILTER (WHERE n > %(settled)s), '{{}}'),
       coalesce(array_agg(n ORDER BY n) FILTER (WHERE n > %(settled)s AND own), '{{}}'),
       coalesce(array_agg(n ORDER BY n) FILTER (WHERE n > %(settled)s AND own AND applied), '{{}}')
FROM (SELECT m.global_position AS n, {applied} AS applied,
             m.partition = %(partition)s AND NOT m.is_archived AS own
      FROM {messages} m) AS numbered

-- unread_up_to --
-- Whether a message up to a number has not been applied.
SELECT EXISTS (
    SELECT FROM {messages} m WHERE m.partition = %(partition)s AND NOT m.is_archived
        AND m.global_position <= %(number)s AND {unread})

-- transaction_of --
-- As 0.43 completes a number alone.
SELECT transaction_id::text::bigint FROM {messages} WHERE global_position = %(number)s LIMIT 1

-- store --
SELECT {function}(%(name)s, %(version)s, %(to)s, %(from)s, pg_current_xact_id(), %(partition)s,
                  'esops')

-- release --
-- What a processor does that ends in order. Its advisory lock is none of this session's.
SELECT {function}(0, %(name)s, %(partition)s, %(version)s, %(instance)s, %(projection)s)

-- row --
-- What the rows of a processor say, as one text.
SELECT jsonb_agg(to_jsonb(p) ORDER BY to_jsonb(p)::text)::text FROM {processors} p
WHERE processor_id = ANY(%(names)s)
