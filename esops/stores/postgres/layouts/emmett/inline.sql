-- tables --
-- The tables of projections that are active and that no processor makes. Pongo may keep them in
-- another schema; then they are known by its columns.
WITH inline AS (
    SELECT p.name FROM {projections} p
     WHERE p.status IS DISTINCT FROM 'inactive'
       AND NOT EXISTS (SELECT FROM {processors} o
                        WHERE o.processor_id = {projector} || p.name AND o.partition = p.partition)
), found AS (
    SELECT n.nspname, c.relname, n.nspname = {schema} AS beside
      FROM inline i
      JOIN pg_class c ON c.relname = i.name AND c.relkind IN ('r', 'p', 'v')
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT pg_is_other_temp_schema(n.oid)
       AND (n.nspname = {schema}
            OR (SELECT count(*) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   AND a.attname IN ('_id', 'data', '_version')) = 3)
)
SELECT DISTINCT nspname, relname FROM found f
 WHERE beside OR NOT EXISTS (SELECT FROM found o WHERE o.relname = f.relname AND o.beside)
 ORDER BY 1, 2

-- status --
-- The status of a projection that no processor makes.
SELECT p.status FROM {projections} p
 WHERE p.name = %(name)s
   AND NOT EXISTS (SELECT FROM {processors} o
                    WHERE o.processor_id = {projector} || p.name AND o.partition = p.partition)
 LIMIT 1

-- processor --
-- The processor that makes a projection.
SELECT processor_id FROM {processors} WHERE processor_id = {projector} || %(name)s LIMIT 1
