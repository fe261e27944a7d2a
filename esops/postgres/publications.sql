-- of_all --
-- Publications that publish every table, also one that is made tomorrow. Tables that are temporary or
-- UNLOGGED are never published.
SELECT quote_ident(pubname) || ' (FOR ALL TABLES)'
  FROM pg_publication
 WHERE puballtables AND (pubinsert OR pubupdate OR pubdelete OR pubtruncate)
 ORDER BY 1;

-- of_schema --
-- Publications that publish every table of a schema, since Postgres 15.
SELECT quote_ident(p.pubname) || format(' (FOR TABLES IN SCHEMA %%I)', n.nspname)
  FROM pg_publication p
  JOIN pg_publication_namespace s ON s.pnpubid = p.oid
  JOIN pg_namespace n ON n.oid = s.pnnspid
 WHERE n.nspname = %(schema)s
   AND (p.pubinsert OR p.pubupdate OR p.pubdelete OR p.pubtruncate)
 ORDER BY 1;

-- of_table --
-- Publications that name a table, or one that it is a partition of, and how they would name another
-- table in its place.
SELECT quote_ident(p.pubname), quote_ident(p.pubname) || ' DROP TABLE ' || r.prrelid::regclass,
       quote_ident(p.pubname) || ' ADD TABLE ' || %(other)s,
       pg_get_userbyid(p.pubowner), pg_has_role(p.pubowner, 'MEMBER')
  FROM pg_publication p
  JOIN pg_publication_rel r ON r.prpubid = p.oid
 WHERE (r.prrelid = %(oid)s OR r.prrelid IN (SELECT pg_partition_ancestors(%(oid)s)))
   AND (p.pubinsert OR p.pubupdate OR p.pubdelete OR p.pubtruncate)
 ORDER BY 1;

-- of_table_in_part --
-- The same since Postgres 15, where a publication may have some of the columns and rows.
SELECT quote_ident(p.pubname), quote_ident(p.pubname) || ' DROP TABLE ' || r.prrelid::regclass,
       quote_ident(p.pubname) || ' ADD TABLE ' || %(other)s
       || coalesce((SELECT ' (' || string_agg(quote_ident(attname), ', ' ORDER BY attnum) || ')'
                      FROM pg_attribute
                     WHERE attrelid = r.prrelid AND attnum = ANY(r.prattrs)), '')
       || coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', ''),
       pg_get_userbyid(p.pubowner), pg_has_role(p.pubowner, 'MEMBER')
  FROM pg_publication p
  JOIN pg_publication_rel r ON r.prpubid = p.oid
 WHERE (r.prrelid = %(oid)s OR r.prrelid IN (SELECT pg_partition_ancestors(%(oid)s)))
   AND (p.pubinsert OR p.pubupdate OR p.pubdelete OR p.pubtruncate)
 ORDER BY 1;

-- without_truncate --
-- Publications that publish new rows of some tables, and not that a table is emptied.
SELECT DISTINCT quote_ident(p.pubname)
  FROM pg_publication p
  JOIN pg_publication_tables t ON t.pubname = p.pubname
  JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
 WHERE c.oid = ANY(%(oids)s) AND p.pubinsert AND NOT p.pubtruncate
 ORDER BY 1;

-- decoded --
-- Whether WAL is decoded at all. With `replica` or `minimal` no slot for logical replication can
-- exist, and a slot that is made later decodes nothing that is older than itself. Since Postgres 19 the
-- level follows from the slots that there are.
SELECT coalesce(current_setting('effective_wal_level', true), current_setting('wal_level')) = 'logical';

-- of_rows --
-- Publications that publish rows of a table or of a partition of it, new ones or those that change:
-- to archive an event is an UPDATE of its row in some stores.
SELECT DISTINCT p.pubname, NULL::text
  FROM pg_publication p
  JOIN pg_publication_tables t ON t.pubname = p.pubname
  JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
 WHERE (p.pubinsert OR p.pubupdate)
   AND (c.oid = %(oid)s OR c.oid IN (SELECT relid FROM pg_partition_tree(%(oid)s))
        OR c.oid IN (SELECT pg_partition_ancestors(%(oid)s)))
 ORDER BY 1;

-- of_rows_in_part --
-- The same since Postgres 15, each with the condition that rows have to meet; none: all of them.
SELECT p.pubname, CASE WHEN bool_and(t.rowfilter IS NOT NULL)
                       THEN string_agg(DISTINCT '(' || t.rowfilter || ')', ' OR ') END
  FROM pg_publication p
  JOIN pg_publication_tables t ON t.pubname = p.pubname
  JOIN pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
 WHERE (p.pubinsert OR p.pubupdate)
   AND (c.oid = %(oid)s OR c.oid IN (SELECT relid FROM pg_partition_tree(%(oid)s))
        OR c.oid IN (SELECT pg_partition_ancestors(%(oid)s)))
 GROUP BY 1
 ORDER BY 1;

-- decoding_slots --
-- Slots whose plug-in knows no publications: it decodes the rows of every table.
SELECT slot_name::text, plugin::text
  FROM pg_replication_slots
 WHERE slot_type = 'logical' AND database = current_database() AND plugin <> 'pgoutput'
 ORDER BY 1;
