-- located --
-- The tables of projections that {named} names. Pongo may keep them in another schema; then they are
-- known by its columns.
WITH named AS (
{named}
), found AS (
    SELECT n.nspname, c.relname, i.processor, n.nspname = {schema} AS beside
      FROM named i
      JOIN pg_class c ON c.relname = i.name AND c.relkind IN ('r', 'p', 'v')
      JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE NOT pg_is_other_temp_schema(n.oid)
       AND (n.nspname = {schema}
            OR (SELECT count(*) FROM pg_attribute a
                 WHERE a.attrelid = c.oid AND NOT a.attisdropped
                   AND a.attname IN ('_id', 'data', '_version')) = 3)
)
SELECT DISTINCT nspname, relname, processor FROM found f
 WHERE beside OR NOT EXISTS (SELECT FROM found o WHERE o.relname = f.relname AND o.beside)
 ORDER BY 1, 2, 3

-- tables --
-- Projections that are active and that no processor makes: 'async_processing' is the status while a
-- processor does, whatever its name, and of one that was killed.
    SELECT p.name, NULL AS processor FROM {projections} p
     WHERE p.status IS DISTINCT FROM 'inactive' AND p.status IS DISTINCT FROM 'async_processing'
       AND NOT EXISTS (SELECT FROM {processors} o
                        WHERE o.processor_id = {projector} || p.name AND o.partition = p.partition)

-- kept --
-- Projections that a processor makes, with its name where that is the library's own.
    SELECT substr(o.processor_id, length({projector}) + 1) AS name, o.processor_id AS processor
      FROM {processors} o WHERE starts_with(o.processor_id, {projector})
    UNION
    SELECT p.name, NULL FROM {projections} p
     WHERE p.status = 'async_processing'
       AND NOT EXISTS (SELECT FROM {processors} o WHERE o.processor_id = {projector} || p.name)

-- status --
-- The status of a projection that no processor makes.
SELECT p.status FROM {projections} p
 WHERE p.name = %(name)s AND p.status IS DISTINCT FROM 'async_processing'
   AND NOT EXISTS (SELECT FROM {processors} o
                    WHERE o.processor_id = {projector} || p.name AND o.partition = p.partition)
 LIMIT 1
