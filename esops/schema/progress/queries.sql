-- may_write --
SELECT has_table_privilege('esops.schema_progress', 'SELECT, INSERT')
   AND has_table_privilege('esops.schema_progress', 'UPDATE')
   AND has_table_privilege('esops.schema_progress', 'DELETE')
   AND NOT pg_is_in_recovery();

-- read --
SELECT revision, document, position, mark FROM esops.schema_progress WHERE key = %(key)s;

-- create --
INSERT INTO esops.schema_progress (key, store, job, selection, revision, document, position, mark)
VALUES (%(key)s, %(store)s, %(job)s, %(selection)s, %(revision)s, %(document)s, %(position)s, %(mark)s)
ON CONFLICT (key) DO NOTHING;

-- replace --
UPDATE esops.schema_progress
   SET revision = %(revision)s, document = %(document)s, position = %(position)s, mark = %(mark)s,
       changed_at = clock_timestamp()
 WHERE key = %(key)s AND revision = %(revision)s - 1;

-- forget --
DELETE FROM esops.schema_progress WHERE key = %(key)s;

-- of_store --
SELECT document, position, changed_at FROM esops.schema_progress
 WHERE store = %(store)s AND job = %(job)s
 ORDER BY changed_at DESC;
