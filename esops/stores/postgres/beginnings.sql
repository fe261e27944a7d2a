-- emptied --
-- The streams of the library's list that have no event any more.
SELECT k.name, k.tenant, k.written + {first}, NULL::text, NULL::text
FROM (SELECT {name}::text AS name, {tenant} AS tenant, {written} AS written FROM {table}
    WHERE {written} > 0 AND {listed}) AS k
WHERE NOT EXISTS (SELECT FROM {events} WHERE {stream} = k.name::{kind} AND {same_tenant})

-- late --
-- The streams whose lowest version is not the first. The index on streams and versions alone gives
-- the lowest versions.
SELECT {stream} AS stream, {name} AS name, {tenant} AS tenant, {life} AS life,
    min({version}) AS lowest
FROM {events} WHERE {scope} GROUP BY 1, 2, 3, 4 HAVING min({version}) > {first}

-- compacted --
-- A library may also have put its snapshot in the place of the first event alone. The server puts
-- an equation with a constant behind all other conditions, and so would look at every event's
-- type.
UNION ALL SELECT {stream}, {name}, {tenant}, {life}, {version}
FROM {events} WHERE {scope} AND {version} BETWEEN {first} AND {first} AND ({snapshot}) IS TRUE

-- any_late --
-- How many events there are of streams without a first event of their own: most often none, and
-- several processes of the server find that out in a quarter of the time that it takes to group
-- all events. All are counted, since for the first of them alone the server might plan to look up
-- the stream of each event. And all are asked about, first events too: without statistics, the
-- server takes those of later versions for few, and looks up the stream of each.
SELECT count(*) FROM (
    SELECT {stream} AS stream, {tenant} AS tenant, {life} AS life FROM {events}
    WHERE {all} AND {beyond}
) AS k
WHERE NOT EXISTS (SELECT FROM {events} WHERE {all} AND {version} <= {first}
    AND ({snapshot}) IS NOT TRUE AND {same_stream} AND {same_tenant} AND {same_life})

-- beginning --
-- Before the first event there may be rows that are none, such as skipped ones.
SELECT {type} AS type, {of_row} AS category FROM (
    SELECT * FROM {events}
    WHERE {same_stream} AND {same_tenant} AND {same_life} AND {version} >= k.lowest AND {own}
    ORDER BY {version} LIMIT 1
) AS first WHERE {wanted}

-- late_beginnings --
-- The event with which each of them begins now.
SELECT k.name, k.tenant, k.lowest, e.type::text, {category}
FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e {listed}

-- shortened --
-- Such streams by the type and category of that event.
SELECT type, category, count(*), sum(lowest - {first})::bigint, min(name), bool_or(wanted)
FROM (
    SELECT k.lowest, k.name, e.type::text AS type, {category} AS category,
        EXISTS (SELECT FROM {events} WHERE {same_stream} AND {same_tenant} AND {same_life}
            AND {type} = ANY({types}::text[])) AS wanted
    FROM ({late}) AS k CROSS JOIN LATERAL ({beginning}) AS e {listed}
) AS shortened
GROUP BY 1, 2

-- listed --
-- The category of a stream from the library's list.
LEFT JOIN (SELECT {name}::text AS name, {tenant} AS tenant, max({category}) AS category
    FROM {table} WHERE {scope} GROUP BY 1, 2) AS s ON s.name = k.name AND s.tenant = k.tenant

-- others --
-- Whether only whole streams of a category have other types of events.
SELECT NOT EXISTS (SELECT FROM {events} WHERE {asked})
    AND EXISTS (SELECT FROM {events} WHERE {all} AND {version} = {first} AND NOT {snapshot})
