-- taken --
-- `k` has the places of the events of a batch.
-- Other events at the positions of archived ones.
SELECT {position}, k.stream, k.version, e.{stream}::text, e.{version}::bigint
FROM unnest(%(stream)s::text[], %(version)s::bigint[], %(tenant)s::text[], {arrays})
    AS k (stream, version, tenant, {names})
JOIN {events} AS e ON {at_place}
WHERE NOT ({same_event})
LIMIT 20

-- lacking --
-- An archived event that is not there.
SELECT k.stream, k.version
FROM unnest(%(stream)s::text[], %(version)s::bigint[], %(tenant)s::text[], {arrays})
    AS k (stream, version, tenant, {names})
WHERE NOT EXISTS (SELECT FROM {events} AS e WHERE {same_event} AND {at_place})
LIMIT 1

-- changed_streams --
-- A stream's row that is not there as a restore wrote it, and the columns that are others.
SELECT different FROM (
    SELECT array_remove(ARRAY[{different}]::text[], NULL) AS different
      FROM unnest(%(row)s::text[]) AS r (text)
     CROSS JOIN LATERAL json_populate_record(NULL::{own}, r.text::json) AS p
      LEFT JOIN {own} AS s ON {same}) AS rows
WHERE different <> '{{}}' LIMIT 1

-- oldest_transaction --
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- drawn --
-- The highest number that was drawn, and what the next one is further on.
SELECT CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - d.seqincrement END,
    greatest(d.seqincrement, 1)
FROM {sequence} AS s, pg_sequence AS d
WHERE d.seqrelid = {name}::regclass

-- draw --
SELECT max(nextval({name}::regclass)) FROM generate_series(1, %(count)s)

-- set --
SELECT setval({name}::regclass, %(highest)s)
