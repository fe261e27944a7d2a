-- temporary_schema --
-- Where the temporary tables of this session are.
SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema();

-- lasting --
-- What this transaction has made that would stay after the session.
SELECT made.what FROM (
    SELECT 'relation ' || oid::regclass::text AS what, xmin, relnamespace AS namespace FROM pg_class
     WHERE relpersistence <> 't'
    UNION ALL
    SELECT 'function ' || oid::regprocedure::text, xmin, pronamespace FROM pg_proc
    UNION ALL
    SELECT 'type ' || oid::regtype::text, xmin, typnamespace FROM pg_type WHERE typrelid = 0
    UNION ALL
    SELECT 'schema ' || nspname, xmin, 0 FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
    UNION ALL
    SELECT 'extension ' || extname, xmin, 0 FROM pg_extension
) AS made
WHERE made.xmin::text = (pg_current_xact_id()::text::bigint % 4294967296)::text
  AND made.namespace <> pg_my_temp_schema()
  AND made.namespace NOT IN (SELECT oid FROM pg_namespace WHERE nspname ~ '^pg_toast')
ORDER BY 1;
