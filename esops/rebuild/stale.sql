-- refresh --
-- A populated materialised view, and how it is refreshed: beside its readers where it has a unique
-- index that Postgres can do that by.
SELECT c.oid::regclass::text,
       format('REFRESH MATERIALIZED VIEW %%s%%s',
              CASE WHEN EXISTS (
                       SELECT FROM pg_index i
                        WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                          AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL)
                   THEN 'CONCURRENTLY ' END,
              c.oid::regclass)
  FROM pg_class c
 WHERE c.oid = %(oid)s AND c.relkind = 'm' AND c.relispopulated;
