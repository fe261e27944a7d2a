-- view --
-- Replaced in its place: owner, rights, comments and whatever refers to it stay. It is locked before
-- the read model, as its readers lock both; an owner that stays the same only locks.
SELECT ARRAY[format('ALTER VIEW %%s OWNER TO %%I', c.oid::regclass, pg_get_userbyid(c.relowner))],
       ARRAY[format('CREATE OR REPLACE VIEW %%s%%s AS %%s', c.oid::regclass,
                    ' WITH (' || array_to_string(c.reloptions, ', ') || ')',
                    btrim(pg_get_viewdef(c.oid), E' \n;'))],
       ARRAY[]::text[],
       ARRAY[]::text[]
  FROM pg_class c
 WHERE c.oid = %(oid)s;

-- materialised_view --
-- Populated by REFRESH, which runs as the owner: CREATE would run the owner's functions as this role.
SELECT ARRAY[format('ALTER MATERIALIZED VIEW %%s OWNER TO %%I', c.oid::regclass,
                    pg_get_userbyid(c.relowner)),
             format('ALTER MATERIALIZED VIEW %%s RENAME TO %%I', c.oid::regclass, %(aside)s::text)],
       ARRAY[format('CREATE MATERIALIZED VIEW %%s USING %%I%%s%%s AS %%s WITH NO DATA',
                    c.oid::regclass, m.amname,
                    (SELECT ' WITH (' || string_agg(o, ', ') || ')'
                       FROM (SELECT unnest(c.reloptions)
                             UNION ALL
                             SELECT 'toast.' || unnest(t.reloptions)
                               FROM pg_class t WHERE t.oid = c.reltoastrelid) AS options (o)),
                    ' TABLESPACE ' || quote_ident(s.spcname),
                    btrim(pg_get_viewdef(c.oid), E' \n;'))]
       || ARRAY(SELECT format('COMMENT ON %%s IS %%L',
                              CASE d.objsubid WHEN 0 THEN 'MATERIALIZED VIEW ' || c.oid::regclass
                              ELSE format('COLUMN %%s.%%I', c.oid::regclass, a.attname) END,
                              d.description)
                  FROM pg_description d
                  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid
                 WHERE d.classoid = 'pg_class'::regclass AND d.objoid = c.oid
                 ORDER BY d.objsubid)
       || ARRAY(SELECT format('ALTER MATERIALIZED VIEW %%s ALTER COLUMN %%I %%s',
                              c.oid::regclass, a.attname, setting)
                  FROM pg_attribute a
                  JOIN pg_type y ON y.oid = a.atttypid,
                       unnest(ARRAY[
                           CASE WHEN a.attstattarget >= 0
                                THEN 'SET STATISTICS ' || a.attstattarget END,
                           CASE WHEN a.attstorage <> y.typstorage
                                THEN 'SET STORAGE ' || CASE a.attstorage
                                     WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                                     WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END,
                           CASE to_jsonb(a) ->> 'attcompression'
                                WHEN 'p' THEN 'SET COMPRESSION pglz'
                                WHEN 'l' THEN 'SET COMPRESSION lz4' END,
                           'SET (' || array_to_string(a.attoptions, ', ') || ')'])
                       AS settings (setting)
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND setting IS NOT NULL
                 ORDER BY a.attnum)
       || CASE c.relreplident
               WHEN 'f' THEN ARRAY[format('ALTER TABLE %%s REPLICA IDENTITY FULL', c.oid::regclass)]
               WHEN 'n' THEN ARRAY[format('ALTER TABLE %%s REPLICA IDENTITY NOTHING',
                                          c.oid::regclass)]
               ELSE ARRAY[]::text[] END,
       ARRAY[format('DROP MATERIALIZED VIEW %%I.%%I', n.nspname, %(aside)s::text)],
       ARRAY(SELECT format('REFRESH MATERIALIZED VIEW %%s', c.oid::regclass) WHERE c.relispopulated)
       || ARRAY(SELECT pg_get_indexdef(i.indexrelid)
                  FROM pg_index i WHERE i.indrelid = c.oid ORDER BY i.indexrelid)
       || ARRAY(SELECT pg_get_statisticsobjdef(x.oid)
                  FROM pg_statistic_ext x WHERE x.stxrelid = c.oid ORDER BY x.oid)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am m ON m.oid = c.relam
  LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
 WHERE c.oid = %(oid)s;

-- labels --
-- Security labels, which only their provider can judge.
SELECT DISTINCT provider
  FROM pg_seclabel
 WHERE objoid = %(oid)s
   AND classoid = CASE %(kind)s::text WHEN 'function' THEN 'pg_proc' ELSE 'pg_class' END::regclass
 ORDER BY 1;

-- name --
SELECT coalesce(c.relname, p.proname)::text, n.nspname::text,
       coalesce(c.oid::regclass::text, p.oid::regprocedure::text)
  FROM (SELECT) one
  LEFT JOIN pg_class c ON c.oid = %(oid)s AND %(kind)s <> 'function'
  LEFT JOIN pg_proc p ON p.oid = %(oid)s AND %(kind)s = 'function'
  JOIN pg_namespace n ON n.oid = coalesce(c.relnamespace, p.pronamespace);

-- function --
-- Replaced in its place: its signature does not change, only what its body is bound to.
SELECT ARRAY[]::text[], ARRAY[pg_get_functiondef(%(oid)s)], ARRAY[]::text[], ARRAY[]::text[];

-- moved_function --
-- Of other types than before, so that it is another function for Postgres. Where the old types stay,
-- the old function does, too, until nobody can be calling it any more.
SELECT ARRAY[format('ALTER ROUTINE %%s RENAME TO %%I', p.oid::regprocedure, %(aside)s::text)]
       || CASE WHEN %(replaced)s::text IS NULL THEN ARRAY[]::text[] ELSE
          ARRAY[format('COMMENT ON ROUTINE %%I.%%I IS %%L', n.nspname, %(aside)s::text,
                       %(replaced)s::text)] END,
       ARRAY['SET LOCAL check_function_bodies = off', pg_get_functiondef(p.oid)]
       || ARRAY(SELECT format('COMMENT ON ROUTINE %%s IS %%L', p.oid::regprocedure, d.description)
                  FROM pg_description d
                 WHERE d.classoid = 'pg_proc'::regclass AND d.objoid = p.oid),
       CASE WHEN %(replaced)s::text IS NULL
            THEN ARRAY[format('DROP ROUTINE %%I.%%I', n.nspname, %(aside)s::text)]
            ELSE ARRAY[]::text[] END,
       ARRAY[]::text[]
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE p.oid = %(oid)s;

-- policy --
SELECT ARRAY[format('LOCK TABLE ONLY %%s IN ACCESS EXCLUSIVE MODE', polrelid::regclass)],
       ARRAY[format('ALTER POLICY %%I ON %%s%%s%%s', polname, polrelid::regclass,
                    ' USING (' || pg_get_expr(polqual, polrelid) || ')',
                    ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')],
       ARRAY[]::text[],
       ARRAY[]::text[]
  FROM pg_policy
 WHERE oid = %(oid)s;

-- rule --
SELECT ARRAY[CASE c.relkind
                 WHEN 'v' THEN format('ALTER VIEW %%s OWNER TO %%I', c.oid::regclass,
                                      pg_get_userbyid(c.relowner))
                 ELSE format('LOCK TABLE ONLY %%s IN ACCESS EXCLUSIVE MODE', c.oid::regclass) END],
       ARRAY[regexp_replace(rtrim(pg_get_ruledef(r.oid), ';'), '^CREATE', 'CREATE OR REPLACE')],
       ARRAY[]::text[],
       ARRAY[]::text[]
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
 WHERE r.oid = %(oid)s;

-- default --
SELECT ARRAY[format('LOCK TABLE ONLY %%s IN ACCESS EXCLUSIVE MODE', e.adrelid::regclass)],
       ARRAY[format('ALTER TABLE ONLY %%s ALTER COLUMN %%I SET DEFAULT %%s', e.adrelid::regclass,
                    a.attname, pg_get_expr(e.adbin, e.adrelid))],
       ARRAY[]::text[],
       ARRAY[]::text[]
  FROM pg_attrdef e JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
 WHERE e.oid = %(oid)s;

-- own_triggers --
-- What a view has and loses when it is made again: INSTEAD OF triggers, rules, default values.
SELECT 'trigger ' || quote_ident(t.tgname) || ' of ' || t.tgrelid::regclass,
       ARRAY[pg_get_triggerdef(t.oid)]
       || ARRAY(SELECT format('COMMENT ON TRIGGER %%I ON %%s IS %%L',
                              t.tgname, t.tgrelid::regclass, d.description)
                  FROM pg_description d
                 WHERE d.classoid = 'pg_trigger'::regclass AND d.objoid = t.oid),
       format('DROP TRIGGER %%I ON %%s', t.tgname, t.tgrelid::regclass),
       ARRAY[]::text[]
  FROM pg_trigger t
 WHERE t.tgrelid = %(oid)s AND NOT t.tgisinternal
UNION ALL
SELECT 'rule ' || quote_ident(r.rulename) || ' of ' || r.ev_class::regclass,
       ARRAY[rtrim(pg_get_ruledef(r.oid), ';')],
       format('DROP RULE %%I ON %%s', r.rulename, r.ev_class::regclass),
       ARRAY(SELECT DISTINCT a.attname::text
               FROM pg_depend d
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.ev_class)
  FROM pg_rewrite r
 WHERE r.ev_class = %(oid)s AND r.rulename <> '_RETURN'
UNION ALL
SELECT format('default of %%s.%%I', e.adrelid::regclass, a.attname),
       ARRAY[format('ALTER VIEW %%s ALTER COLUMN %%I SET DEFAULT %%s', e.adrelid::regclass,
                    a.attname, pg_get_expr(e.adbin, e.adrelid))],
       format('ALTER VIEW %%s ALTER COLUMN %%I DROP DEFAULT', e.adrelid::regclass, a.attname),
       ARRAY[a.attname::text]
  FROM pg_attrdef e JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
 WHERE e.adrelid = %(oid)s
 ORDER BY 1;
