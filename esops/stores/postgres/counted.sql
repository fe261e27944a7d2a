-- size --
-- How many bytes the rows of a table have, and those of its partitions.
SELECT pg_relation_size(%(table)s::regclass) + coalesce(sum(pg_relation_size(relid)), 0)
  FROM pg_partition_tree(%(table)s::regclass)

-- parts --
-- How many rows there are of each range of a stream's versions.
SELECT (SELECT count(*) FROM {events} WHERE {same_name} AND {same_tenant}
    AND {version} BETWEEN k.low AND k.high AND {alive} AND {scope})
FROM unnest({streams}::text[], {in_tenants}::text[], {low}::bigint[], {high}::bigint[])
    WITH ORDINALITY AS k (stream, tenant, low, high, number)
ORDER BY k.number

-- events --
-- Which events there are, by stream, version and id.
SELECT EXISTS (SELECT FROM {events} WHERE {same_name} AND {same_tenant}
    AND {version} = k.version AND {id} = k.id AND {alive} AND {scope})
FROM unnest({streams}::text[], {in_tenants}::text[], {versions}::bigint[], {ids}::text[])
    WITH ORDINALITY AS k (stream, tenant, version, id, number)
ORDER BY k.number
