-- cluster --
-- Which database of which cluster the events are in, and since when that runs without a break: a
-- server that starts again, or recovers from a crash, counts its statistics from then on.
SELECT (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),
       {table}::regclass::oid::bigint,
       extract(epoch FROM pg_postmaster_start_time())::text,
       (SELECT extract(epoch FROM stats_reset)::text FROM pg_stat_bgwriter);

-- system --
-- What the cluster was created with; a copy on the level of files keeps it.
SELECT system_identifier::text FROM pg_control_system();

-- timeline --
-- Each promotion of a replica and each restore to a point in time begins a new one.
SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8);

-- newest --
-- The newest events at or before a position, the newest first. Under names of ours: ORDER BY would
-- take an output's name, such as id for id::text, before the table's column.
SELECT {order}, {id} AS "esops:id", {stream} AS "esops:stream",
       {version}::bigint AS "esops:version", {tenant} AS "esops:tenant",
       {content} AS "esops:content"
  FROM {events}
 WHERE {scope} AND {up_to}
 ORDER BY {descending}
 LIMIT {most};

-- between --
-- The rows from one position to another: those with the ids of a mark in any case, and of many
-- others as many as show that there are some.
SELECT {order}, {id}, {stream}, {version}::bigint, {tenant}, {content}
  FROM {events}
 WHERE {scope} AND {from} AND {up_to}
 ORDER BY {id}::text IN ({ids}) DESC
 LIMIT 10000;

-- version --
-- The type of what has a version of a stream now.
SELECT {type} FROM {events} WHERE {of_stream} AND {version} = {at} LIMIT 1;

-- last --
-- The newest version that a stream has now.
SELECT max({version})::bigint FROM {events} WHERE {of_stream};

-- written --
-- The newest version that a stream ever had, by the library's own list of streams.
SELECT max({length})::bigint FROM {table} WHERE {of_stream};

-- drawn --
-- The last number that the sequence gave out.
SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {sequence};

-- highest --
SELECT max({number})::bigint FROM {events} WHERE {scope};

-- transactions --
-- The ids of transactions that are next and oldest in this cluster.
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- newest_transaction --
SELECT transaction_id::text::bigint FROM {events} ORDER BY transaction_id DESC LIMIT 1;

-- passed --
-- Events that are before a position by their transaction's id, and were written after its mark.
SELECT EXISTS (SELECT FROM {events} WHERE {up_to} AND global_position > {end});

-- unread --
-- How many events follow a position, and whether a stream goes backwards in their order.
SELECT count(*), coalesce(bool_or(back), FALSE)
  FROM (SELECT stream_position < lag(stream_position) OVER (
                   PARTITION BY partition, stream_id ORDER BY transaction_id, global_position)
               AS back
          FROM (SELECT * FROM {events} WHERE {beyond} LIMIT {most}) unread) ordered;
