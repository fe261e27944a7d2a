-- events --
-- The events of all runs, with their payloads as JSON.
CREATE VIEW events AS SELECT
    stream, tenant,
    {category} AS category,
    version, position_1, position_2, type,
    coalesce(id_text, regexp_replace(lower(hex(id)), '(.{{8}})(.{{4}})(.{{4}})(.{{4}})(.{{12}})',
    '\1-\2-\3-\4-\5')) AS id,
    {recorded_at} AS recorded_at,
    {data} AS data, {metadata} AS metadata{extra}, run
FROM stored{joined} WHERE NOT hidden{readable}{once}

-- json --
-- A payload as JSON; an error where it is meant to be JSON and cannot be read.
CASE WHEN octet_length({column}) > {most} THEN {error} ELSE
    coalesce({parsed}, CASE WHEN {meant} THEN {error} END) END

-- error --
-- The error, as an object with the fields of Unreadable.
error('{mark}' || to_json({{'run': run, 'stream': stream, 'version': version,
    'column': '{column}', 'bytes': octet_length({column})}})::VARCHAR)::JSON

-- unreadable --
-- The events whose data or metadata cannot be read.
CREATE TEMP TABLE unreadable AS SELECT {key}, store, type, id, id_text,
    CASE WHEN {data} THEN 'data' ELSE 'metadata' END AS "column",
    octet_length(CASE WHEN {data} THEN data ELSE metadata END) AS bytes
FROM stored WHERE NOT hidden AND ({data} OR {metadata})

-- streams --
-- The streams of all runs, as their lists have them.
CREATE VIEW streams AS SELECT * REPLACE (
    {first_at} AS first_at, {last_at} AS last_at, lower(hex(sha256)) AS sha256
) FROM listed
