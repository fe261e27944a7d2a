-- catalogue --
-- What the statements of the switch were made from: the rows of the catalogue on some tables, their
-- indexes and what refers to them, each by the transaction that wrote it.
WITH RECURSIVE relation AS (
    SELECT unnest(%(tables)s::regclass[])::oid AS oid
    UNION
    SELECT r.oid FROM relation JOIN (
        SELECT indrelid AS of, indexrelid AS oid FROM pg_index
        UNION ALL SELECT inhparent, inhrelid FROM pg_inherits
        UNION ALL SELECT inhrelid, inhparent FROM pg_inherits
    ) r ON r.of = relation.oid
)
SELECT md5(string_agg(concat_ws(' ', what, key, xmin), ',' ORDER BY what, key, xmin::text))
  FROM (
    SELECT 'class' AS what, c.oid::text AS key, c.xmin FROM pg_class c JOIN relation USING (oid)
    UNION ALL
    SELECT 'attribute', a.attrelid::text || a.attnum, a.xmin
      FROM pg_attribute a JOIN relation ON a.attrelid = relation.oid
    UNION ALL
    SELECT 'depends', d.classid::text || d.objid || d.objsubid, d.xmin
      FROM pg_depend d JOIN relation ON d.refclassid = 'pg_class'::regclass AND d.refobjid = relation.oid
    UNION ALL
    SELECT 'constraint', c.oid::text, c.xmin
      FROM pg_constraint c JOIN relation ON c.conrelid = relation.oid
    UNION ALL
    SELECT 'constraint', c.oid::text, c.xmin
      FROM pg_constraint c JOIN relation ON c.confrelid = relation.oid
    UNION ALL
    SELECT 'trigger', t.oid::text, t.xmin FROM pg_trigger t JOIN relation ON t.tgrelid = relation.oid
    UNION ALL
    SELECT 'policy', p.oid::text, p.xmin FROM pg_policy p JOIN relation ON p.polrelid = relation.oid
    UNION ALL
    SELECT 'publication', p.oid::text, p.xmin FROM pg_publication p
    UNION ALL
    SELECT 'published', p.oid::text, p.xmin
      FROM pg_publication_rel p JOIN relation ON p.prrelid = relation.oid
    UNION ALL
    SELECT 'comment', d.objoid::text || d.objsubid, d.xmin
      FROM pg_description d JOIN relation ON d.objoid = relation.oid
     WHERE d.classoid = 'pg_class'::regclass
    UNION ALL
    SELECT 'label', l.objoid::text || l.objsubid || l.provider, l.xmin
      FROM pg_seclabel l JOIN relation ON l.objoid = relation.oid
     WHERE l.classoid = 'pg_class'::regclass
) AS rows
