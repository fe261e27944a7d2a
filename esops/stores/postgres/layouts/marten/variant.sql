-- tenants --
-- The tenants that have streams: one look into the key for each.
WITH RECURSIVE known (tenant) AS (
    SELECT min(tenant_id)::text FROM {streams}
    UNION ALL SELECT (SELECT min(tenant_id)::text FROM {streams} WHERE tenant_id > tenant)
    FROM known WHERE tenant IS NOT NULL)
SELECT tenant FROM known WHERE tenant IS NOT NULL LIMIT {most}
