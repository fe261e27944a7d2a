-- triggers --
-- The triggers that somebody made on a table: those of partitions come with their parent's. The
-- definition names the table as it is called now. Columns are those that UPDATE OF and WHEN name.
SELECT quote_ident(t.tgname), pg_get_triggerdef(t.oid), t.tgenabled::text,
       obj_description(t.oid, 'pg_trigger'),
       ARRAY(SELECT a.attname::text
               FROM pg_depend d
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = t.tgrelid
              ORDER BY a.attnum)
  FROM pg_trigger t
 WHERE t.tgrelid = %(oid)s AND NOT t.tgisinternal AND t.tgparentid = 0
   AND has_function_privilege(t.tgfoid, 'EXECUTE')
 ORDER BY 1;
