-- highest --
-- The last event of each stream.
SELECT k.stream, k.tenant, last.version
  FROM {streams}
 CROSS JOIN LATERAL (
       SELECT {version}::bigint AS version FROM {events} AS e
        WHERE {of_stream} ORDER BY {version} DESC LIMIT 1) AS last

-- there --
-- How many events are in ranges of streams' versions.
SELECT k.stream, k.tenant, count(*)
  FROM {ranges} JOIN {events} AS e ON {of_stream} AND {version} BETWEEN k.low AND k.high
 GROUP BY 1, 2

-- whole_rows --
-- What tells the rows of streams from any others, but for the marks of what is archived: a number,
-- whatever their order and wherever they are.
SELECT k.stream, k.tenant,
       sum(hashtextextended((to_jsonb(e) - %(marks)s::text[])::text, 0)::numeric)
  FROM {streams} JOIN {events} AS e ON {of_any}
 GROUP BY 1, 2

-- whole_stream --
-- The same of the streams' own rows.
SELECT k.stream, k.tenant,
       sum(hashtextextended((to_jsonb(s) - %(marks)s::text[])::text, 0)::numeric)
  FROM {streams} JOIN {own} AS s ON {of_row}
 GROUP BY 1, 2

-- waits_for_us --
-- Whether one of some transactions waits for this one.
SELECT EXISTS (
    SELECT FROM pg_locks
     WHERE virtualtransaction = ANY(%(virtual)s)
       AND pg_backend_pid() = ANY(pg_blocking_pids(pid)))

-- insert_locks_stream --
-- Whether a foreign key that is enforced makes each insert of an event lock its stream's row.
SELECT EXISTS (
    SELECT FROM pg_constraint AS c
      JOIN pg_trigger AS t ON t.tgconstraint = c.oid AND t.tgrelid = c.conrelid
     WHERE c.conrelid = to_regclass(%(events)s) AND c.confrelid = to_regclass(%(streams)s)
       AND c.contype = 'f' AND t.tgenabled IN ('O', 'A'))
