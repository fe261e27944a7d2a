-- triggers --
-- The triggers of the application that an insert into a table fires: name, definition, what it says
-- the table is, and whether what it does may depend on which table that is. Those of partitions
-- that the table does not have itself fire for each row.
WITH RECURSIVE parts(oid) AS (
    SELECT %(oid)s::oid
    UNION ALL
    SELECT i.inhrelid FROM pg_inherits i JOIN parts p ON p.oid = i.inhparent
)
SELECT t.tgname::text, pg_get_triggerdef(t.oid), format(' ON %%I.%%I ', n.nspname, c.relname),
       t.tgtype & 2 > 0 AND f.prosrc ~* '\mtg_(relid|table_schema)\M'
  FROM pg_trigger t
  JOIN parts p ON p.oid = t.tgrelid
  JOIN pg_class c ON c.oid = t.tgrelid
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_proc f ON f.oid = t.tgfoid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgtype & 4 > 0 AND t.tgenabled IN ('O', 'A')
   AND (t.tgrelid = %(oid)s OR t.tgtype & 1 > 0)
 ORDER BY 1;

-- rules --
-- The rules that rewrite an insert into a table.
SELECT rulename::text FROM pg_rewrite
 WHERE ev_class = %s AND ev_type = '3' AND ev_enabled IN ('O', 'A') ORDER BY 1;
