-- any_dependants --
-- Whether the next query can find anything. Most tables have nothing but what goes with them, and its
-- plan alone takes the server longer than all else here.
SELECT EXISTS (
    SELECT FROM unnest(%(classes)s::text[], %(oids)s::oid[]) AS given (class, oid)
      JOIN pg_depend d ON d.refclassid = given.class::regclass AND d.refobjid = given.oid
     WHERE d.deptype = 'n' OR d.classid = 'pg_trigger'::regclass);

-- dependants --
-- Whatever refers to relations, types or functions by their identity and not by their name. What
-- belongs to one of the relations themselves (its indexes, its own policies) goes where they go.
WITH moved AS (
    SELECT class::regclass::oid AS class, oid
      FROM unnest(%(classes)s::text[], %(oids)s::oid[]) AS given (class, oid)
), found AS (
    SELECT d.classid, d.objid, d.objsubid, d.deptype,
           jsonb_agg(DISTINCT jsonb_build_array(
               d.refclassid::regclass::text, d.refobjid::bigint,
               CASE WHEN d.refclassid = 'pg_class'::regclass THEN a.attname END)) AS uses
      FROM pg_depend d
      JOIN moved m ON m.class = d.refclassid AND m.oid = d.refobjid
      LEFT JOIN pg_attribute a
             ON d.refclassid = 'pg_class'::regclass AND a.attrelid = d.refobjid
            AND a.attnum = d.refobjsubid AND d.refobjsubid > 0
     GROUP BY 1, 2, 3, 4
), ruled AS MATERIALIZED (
    -- In steps, since the planner would try each order of ten joins.
    SELECT f.*, coalesce(r.ev_class, p.polrelid, e.adrelid) AS ruled, r.rulename, p.polname, e.adnum
      FROM found f
      LEFT JOIN pg_rewrite r ON f.classid = 'pg_rewrite'::regclass AND r.oid = f.objid
      LEFT JOIN pg_policy p ON f.classid = 'pg_policy'::regclass AND p.oid = f.objid
      LEFT JOIN pg_attrdef e ON f.classid = 'pg_attrdef'::regclass AND e.oid = f.objid
), placed AS MATERIALIZED (
    SELECT f.*, coalesce(f.ruled, nullif(k.conrelid, 0), t.tgrelid, x.indrelid, c.oid, 0)
               AS relation,
           k.conname, k.contype, t.tgname, t.tgisinternal, c.relkind, f.objsubid AS attnum
      FROM ruled f
      LEFT JOIN pg_constraint k ON f.classid = 'pg_constraint'::regclass AND k.oid = f.objid
      LEFT JOIN pg_trigger t ON f.classid = 'pg_trigger'::regclass AND t.oid = f.objid
      LEFT JOIN pg_class c ON f.classid = 'pg_class'::regclass AND c.oid = f.objid
      LEFT JOIN pg_index x ON f.classid = 'pg_class'::regclass AND x.indexrelid = f.objid
), named AS MATERIALIZED (
    SELECT l.*, w.relkind AS kind_of_relation, l.relation::regclass::text AS relation_name,
           quote_ident(a.attname) AS column_name, a.attgenerated, q.prokind,
           CASE WHEN q.oid IS NOT NULL THEN q.proowner WHEN y.oid IS NOT NULL THEN y.typowner
                ELSE w.relowner END AS owner
      FROM placed l
      LEFT JOIN pg_class w ON w.oid = l.relation
      LEFT JOIN pg_attribute a
             ON a.attrelid = l.relation
            AND a.attnum = coalesce(l.adnum::int, nullif(l.attnum, 0))
      LEFT JOIN pg_proc q ON l.classid = 'pg_proc'::regclass AND q.oid = l.objid
      LEFT JOIN pg_type y ON l.classid = 'pg_type'::regclass AND y.oid = l.objid
     WHERE l.relation <> ALL(%(roots)s::oid[])
       -- A domain's own checks go with it.
       AND NOT EXISTS (SELECT FROM pg_constraint k JOIN found f ON f.objid = k.contypid
                        WHERE l.classid = 'pg_constraint'::regclass AND k.oid = l.objid
                          AND f.classid = 'pg_type'::regclass)
       -- Nor does the list of columns with which a relation itself is published stay behind.
       AND NOT EXISTS (SELECT FROM pg_publication_rel r
                        WHERE l.classid = 'pg_publication_rel'::regclass AND r.oid = l.objid
                          AND r.prrelid = ANY(%(roots)s::oid[]))
       AND obj_description(l.objid, l.classid::regclass::name) IS DISTINCT FROM %(replaced)s
       AND (l.deptype = 'n'
            -- A constraint trigger goes with the table it watches as well.
            OR (l.tgname IS NOT NULL AND NOT l.tgisinternal))
), worded AS (
    SELECT classid, objid, attnum, relation, uses, owner,
           CASE
             WHEN rulename = '_RETURN' AND kind_of_relation = 'v' THEN 'view'
             WHEN rulename = '_RETURN' THEN 'materialised view'
             WHEN rulename IS NOT NULL THEN 'rule'
             WHEN polname IS NOT NULL THEN 'policy'
             WHEN adnum IS NOT NULL AND attgenerated <> '' THEN 'generated column'
             WHEN adnum IS NOT NULL THEN 'default'
             WHEN contype = 'f' THEN 'foreign key'
             WHEN conname IS NOT NULL THEN 'constraint'
             WHEN tgname IS NOT NULL THEN 'trigger'
             WHEN prokind IN ('f', 'p') THEN 'function'
             WHEN relkind IN ('i', 'I') THEN 'index'
             WHEN relkind = 'v' THEN 'view'
             WHEN relkind = 'm' THEN 'materialised view'
             WHEN relkind IS NOT NULL AND attnum > 0 THEN 'column'
             WHEN relkind IS NOT NULL THEN 'table'
             ELSE 'other' END AS kind,
           rulename, polname, conname, tgname, column_name, relation_name, prokind, attgenerated,
           coalesce(kind_of_relation, ' ') AS kind_of_relation
      FROM named
)
SELECT kind, classid::regclass::text,
       CASE WHEN kind IN ('view', 'materialised view') THEN relation ELSE objid END::bigint AS oid,
       CASE kind
         WHEN 'rule' THEN format('rule %%I of %%s', rulename, relation_name)
         WHEN 'policy' THEN format('policy %%I of %%s', polname, relation_name)
         WHEN 'generated column' THEN format('generated column %%s.%%s', relation_name, column_name)
         WHEN 'default' THEN format('default of %%s.%%s', relation_name, column_name)
         WHEN 'foreign key' THEN format('foreign key %%I of %%s', conname, relation_name)
         WHEN 'trigger' THEN format('trigger %%I of %%s', tgname, relation_name)
         WHEN 'function' THEN CASE prokind WHEN 'p' THEN 'procedure ' ELSE 'function ' END
                              || objid::regprocedure::text
         WHEN 'index' THEN 'index ' || objid::regclass::text
         WHEN 'view' THEN 'view ' || relation_name
         WHEN 'materialised view' THEN 'materialised view ' || relation_name
         WHEN 'column' THEN format('column %%s.%%s', relation_name, column_name)
         WHEN 'table' THEN 'table ' || relation_name
         ELSE pg_describe_object(classid, objid, 0) END AS name,
       relation::bigint, relation_name, kind_of_relation = 'v', column_name, uses,
       coalesce(pg_get_userbyid(owner)::text, '') AS owner,
       owner IS NULL OR pg_has_role(owner, 'USAGE') AS ours,
       EXISTS (SELECT FROM pg_depend e
                WHERE e.classid = worded.classid AND e.objid = worded.objid
                  AND e.deptype = 'e') AS of_extension,
       -- A view's or a function's own type, which cannot be replaced under it.
       (kind = 'view' AND attnum > 0)
       OR (kind = 'function'
           AND EXISTS (SELECT FROM pg_proc q, moved m
                        WHERE q.oid = objid AND m.class = 'pg_type'::regclass
                          AND (m.oid = q.prorettype OR m.oid = ANY(q.proargtypes)
                               OR m.oid = ANY(q.proallargtypes)))) AS has_type,
       -- Makes rows of a type, and so names a value for each of its columns: ROW(...)::cart, a literal,
       -- or what the parsed body of a function returns.
       EXISTS (SELECT FROM moved m
                WHERE m.class = 'pg_type'::regclass
                  AND (tree ~ format(':row_typeid %%s\M', m.oid)
                       OR tree ~ format(':consttype %%s [^{}]*:constisnull false', m.oid)
                       OR (parsed AND m.oid = returns))) AS makes_rows,
       kind = 'function' AND NOT parsed AS unparsed
  FROM worded
  LEFT JOIN LATERAL (
       SELECT concat(ev_action, ev_qual) AS tree, false AS parsed, NULL::oid AS returns
         FROM pg_rewrite WHERE classid = 'pg_rewrite'::regclass AND oid = objid
        UNION ALL
       SELECT concat(polqual, polwithcheck), false, NULL
         FROM pg_policy WHERE classid = 'pg_policy'::regclass AND oid = objid
        UNION ALL
       SELECT adbin::text, false, NULL
         FROM pg_attrdef WHERE classid = 'pg_attrdef'::regclass AND oid = objid
        UNION ALL
       SELECT prosqlbody::text, prosqlbody IS NOT NULL, prorettype
         FROM pg_proc WHERE classid = 'pg_proc'::regclass AND oid = objid) body ON true
 ORDER BY name, has_type DESC;

-- types --
-- The types of a relation's rows and of arrays of them.
SELECT t.oid::bigint FROM pg_type t JOIN pg_class c ON t.oid = c.reltype
 WHERE c.oid = %(oid)s
UNION ALL
SELECT a.oid::bigint FROM pg_type a JOIN pg_type t ON a.oid = t.typarray JOIN pg_class c ON t.oid = c.reltype
 WHERE c.oid = %(oid)s;

-- replaced --
SELECT format('DROP ROUTINE %%s', d.objoid::regprocedure)
  FROM pg_description d
 WHERE d.classoid = 'pg_proc'::regclass AND d.description = %(replaced)s
   AND EXISTS (SELECT FROM pg_proc p WHERE p.oid = d.objoid AND pg_has_role(p.proowner, 'USAGE'))
 ORDER BY 1;

-- running --
-- Who is in a transaction now, or of those still is.
SELECT virtualtransaction FROM pg_locks
 WHERE locktype = 'virtualxid' AND granted AND pid <> pg_backend_pid()
   AND (%(of)s::text[] IS NULL OR virtualtransaction = ANY(%(of)s::text[]));
