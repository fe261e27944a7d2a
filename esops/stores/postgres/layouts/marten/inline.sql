-- tables --
-- Document tables, and tables that a flat table projection writes to by functions of its own, with
-- what their projection may be called: each without the projections' prefixes, in lower case.
WITH upserts AS MATERIALIZED (
    -- Few or none. Asked for each relation, the functions of the server itself were read each time.
    SELECT pronamespace, proname FROM pg_proc WHERE proname LIKE 'mt\_upsert\_%'
)
SELECT n.nspname, c.relname, regexp_replace(c.relname, '^mt_doc_', '') AS alias,
       c.relname LIKE 'mt\_doc\_%' AS document
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v') AND NOT pg_is_other_temp_schema(n.oid)
   AND CASE WHEN c.relname LIKE 'mt\_doc\_%'
            THEN (SELECT count(*) FROM pg_attribute a
                   WHERE a.attrelid = c.oid AND NOT a.attisdropped
                     AND a.attname IN ('id', 'data', 'mt_last_modified')) = 3
                 -- Documents of the libraries' own: what a daemon could not apply, and Wolverine's
                 -- messages. No projection makes them, so that they have no revisions.
                 AND NOT ((c.relname = 'mt_doc_deadletterevent' OR (c.relname = 'mt_doc_envelope'
                           AND EXISTS (SELECT FROM pg_class w
                                        WHERE w.relname = 'wolverine_incoming_envelopes')))
                          AND EXISTS (SELECT FROM pg_attribute a
                                       WHERE a.attrelid = c.oid AND a.attname = 'mt_version'
                                         AND a.atttypid = 'uuid'::regtype))
            ELSE EXISTS (SELECT FROM upserts f
                          WHERE f.pronamespace = n.oid
                            AND starts_with(f.proname, 'mt_upsert_' || lower(c.relname) || '_'))
       END
 ORDER BY 1, 2
