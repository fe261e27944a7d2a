-- make_streams --
-- The streams that wait, with their own rows.
CREATE TEMP TABLE esops_streams (
    number bigserial PRIMARY KEY, stream text NOT NULL, tenant text NOT NULL, own text,
    events bigint NOT NULL
) ON COMMIT DROP

-- make_events --
-- The events that wait, as the store has them; no constraint of its table is wanted here.
CREATE TEMP TABLE esops_events ON COMMIT DROP AS SELECT {columns} FROM {events} WITH NO DATA

-- add_stream --
INSERT INTO pg_temp.esops_streams (stream, tenant, own, events) VALUES (%s, %s, %s, %s)

-- streams --
SELECT number, stream, tenant, own, events FROM pg_temp.esops_streams
WHERE number > %(after)s ORDER BY number LIMIT %(limit)s

-- count_streams --
SELECT count(*) FROM pg_temp.esops_streams

-- count_events --
SELECT count(*) FROM pg_temp.esops_events

-- drop_present --
-- Events that the store has, at whatever positions.
DELETE FROM pg_temp.esops_events AS w USING {events} AS e WHERE {same_event} AND {same_id}

-- insert --
-- The subquery is sorted before the numbers are drawn.
INSERT INTO {events} ({into}) OVERRIDING SYSTEM VALUE
SELECT {values} FROM (SELECT * FROM pg_temp.esops_events ORDER BY {order} OFFSET 0) AS w
ON CONFLICT DO NOTHING

-- changed --
-- An event that was not inserted as it waited, and the columns that are others.
SELECT * FROM (
    SELECT {stream}::text, w.{version}::bigint,
           array_remove(ARRAY[{different}]::text[], NULL) AS different
      FROM pg_temp.esops_events AS w JOIN {events} AS e ON {same_event}) AS rows
WHERE different <> '{{}}' LIMIT 1

-- later --
-- An event after which, in its stream, the store has others: at a new position it would come after
-- those in the log.
SELECT 1 FROM pg_temp.esops_events AS w WHERE EXISTS (
    SELECT FROM {events} AS e WHERE {same_stream} AND e.{version} > w.{version}) LIMIT 1

-- conflicts --
-- Streams in whose way other events are, each with the version at which, and what is in its way.
-- Asked only where an insert fell short: there may be no index on ids.
SELECT DISTINCT ON (1, 2) * FROM (
    SELECT {stream}::text AS stream, {tenant} AS tenant, w.{version}::bigint AS version,
        CASE WHEN EXISTS (SELECT FROM {events} AS e WHERE {same_event} AND NOT ({same_id}))
                 THEN 'version'
             WHEN EXISTS (SELECT FROM {events} AS e WHERE {other_with_id} AND NOT ({same_event}))
                 THEN 'id'
             WHEN NOT EXISTS (SELECT FROM {events} AS e WHERE {same_event})
                 AND EXISTS (SELECT FROM {events} AS e
                             WHERE {same_stream} AND e.{version} > w.{version})
                 THEN 'later' END AS reason
    FROM pg_temp.esops_events AS w) AS found
WHERE reason IS NOT NULL ORDER BY 1, 2, 3

-- drop_events --
DELETE FROM pg_temp.esops_events AS w WHERE {stream}::text = %(stream)s AND {tenant} = %(tenant)s

-- drop_stream --
DELETE FROM pg_temp.esops_streams WHERE stream = %(stream)s AND tenant = %(tenant)s
