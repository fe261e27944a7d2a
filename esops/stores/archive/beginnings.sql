-- snapshots --
-- The streams that have nothing but a snapshot at some version, with the first such version.
WITH events AS (SELECT stream, tenant, version, type FROM ({stored})
    WHERE NOT hidden AND {where}),
snapshots AS (SELECT stream, tenant, version, min(type) AS type FROM events
    SEMI JOIN (SELECT stream, tenant, version FROM events
        WHERE regexp_matches(type, '{snapshot}', 'i')) USING (stream, tenant, version)
    GROUP BY 1, 2, 3 HAVING bool_and(regexp_matches(type, '{snapshot}', 'i')))
SELECT stream, tenant, min(version), arg_min(type, version), any_value(first_category)
FROM snapshots LEFT JOIN ({categories}) USING (stream, tenant)
GROUP BY 1, 2 ORDER BY 1, 2
