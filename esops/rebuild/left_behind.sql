-- by_hand --
-- How somebody takes an object away before a switch and makes it again after it.
SELECT CASE %(kind)s::text
         WHEN 'foreign key' THEN
              (SELECT format('ALTER TABLE %%s DROP CONSTRAINT %%I', conrelid::regclass, conname)
                 FROM pg_constraint WHERE oid = %(oid)s)
         WHEN 'constraint' THEN
              (SELECT CASE WHEN contypid = 0 THEN 'ALTER TABLE ' || conrelid::regclass
                      ELSE 'ALTER DOMAIN ' || contypid::regtype END
                      || format(' DROP CONSTRAINT %%I', conname)
                 FROM pg_constraint WHERE oid = %(oid)s)
         WHEN 'index' THEN format('DROP INDEX %%s', %(oid)s::oid::regclass)
         WHEN 'trigger' THEN
              (SELECT format('DROP TRIGGER %%I ON %%s', tgname, tgrelid::regclass)
                 FROM pg_trigger WHERE oid = %(oid)s)
         WHEN 'rule' THEN
              (SELECT format('DROP RULE %%I ON %%s', rulename, ev_class::regclass)
                 FROM pg_rewrite WHERE oid = %(oid)s)
         WHEN 'policy' THEN
              (SELECT format('DROP POLICY %%I ON %%s', polname, polrelid::regclass)
                 FROM pg_policy WHERE oid = %(oid)s)
         WHEN 'view' THEN format('DROP VIEW %%s', %(oid)s::oid::regclass)
         WHEN 'materialised view' THEN
              format('DROP MATERIALIZED VIEW %%s', %(oid)s::oid::regclass)
         WHEN 'function' THEN format('DROP ROUTINE %%s', %(oid)s::oid::regprocedure)
         WHEN 'default' THEN
              (SELECT format('ALTER TABLE %%s ALTER COLUMN %%I DROP DEFAULT', e.adrelid::regclass,
                             a.attname)
                 FROM pg_attrdef e
                 JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                WHERE e.oid = %(oid)s)
         WHEN 'generated column' THEN
              (SELECT format('ALTER TABLE %%s DROP COLUMN %%I', e.adrelid::regclass, a.attname)
                 FROM pg_attrdef e
                 JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                WHERE e.oid = %(oid)s)
         WHEN 'column' THEN
              format(CASE WHEN (SELECT relkind FROM pg_class WHERE oid = %(oid)s) = 'c'
                     THEN 'ALTER TYPE %%s ALTER ATTRIBUTE %%s TYPE text'
                     ELSE 'ALTER TABLE %%s ALTER COLUMN %%s TYPE text USING %%2$s::text' END,
                     %(oid)s::oid::regclass, %(column)s::text)
         WHEN 'table' THEN
              (SELECT CASE WHEN c.reloftype <> 0 THEN format('ALTER TABLE %%s NOT OF', c.oid::regclass)
                      ELSE format('ALTER TABLE %%s NO INHERIT %%s', c.oid::regclass,
                                  %(used)s::oid::regclass) END
                 FROM pg_class c WHERE c.oid = %(oid)s)
         ELSE (SELECT format('DROP %%s %%s', CASE WHEN t.oid IS NOT NULL THEN 'DOMAIN'
                                             ELSE upper(o.type) END,
                             CASE WHEN k.oid IS NOT NULL
                             THEN format('(%%s AS %%s)', castsource::regtype, casttarget::regtype)
                             ELSE o.identity END)
                 FROM pg_identify_object(%(class)s::text::regclass, %(oid)s, 0) o
                 LEFT JOIN pg_type t
                        ON %(class)s = 'pg_type' AND t.oid = %(oid)s AND t.typtype = 'd'
                 LEFT JOIN pg_cast k ON %(class)s = 'pg_cast' AND k.oid = %(oid)s)
         END,
       CASE %(kind)s::text
         WHEN 'foreign key' THEN
              (SELECT format('ALTER TABLE %%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname,
                             pg_get_constraintdef(oid))
                 FROM pg_constraint WHERE oid = %(oid)s)
         WHEN 'constraint' THEN
              (SELECT CASE WHEN contypid = 0 THEN 'ALTER TABLE ' || conrelid::regclass
                      ELSE 'ALTER DOMAIN ' || contypid::regtype END
                      || format(' ADD CONSTRAINT %%I %%s', conname, pg_get_constraintdef(oid))
                 FROM pg_constraint WHERE oid = %(oid)s)
         WHEN 'index' THEN pg_get_indexdef(%(oid)s)
         WHEN 'trigger' THEN pg_get_triggerdef(%(oid)s)
         WHEN 'rule' THEN rtrim(pg_get_ruledef(%(oid)s), ';')
         WHEN 'policy' THEN
              (SELECT format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s%%s%%s', polname,
                             polrelid::regclass,
                             CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                             CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
                                         WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE'
                                         ELSE 'ALL' END,
                             (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC'
                                                ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                                FROM unnest(polroles) r),
                             ' USING (' || pg_get_expr(polqual, polrelid) || ')',
                             ' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')')
                 FROM pg_policy WHERE oid = %(oid)s)
         WHEN 'view' THEN format('CREATE VIEW %%s AS %%s', %(oid)s::oid::regclass,
                                 btrim(pg_get_viewdef(%(oid)s::oid), E' \n;'))
         WHEN 'materialised view' THEN
              format('CREATE MATERIALIZED VIEW %%s AS %%s', %(oid)s::oid::regclass,
                     btrim(pg_get_viewdef(%(oid)s::oid), E' \n;'))
         WHEN 'function' THEN pg_get_functiondef(%(oid)s)
         WHEN 'default' THEN
              (SELECT format('ALTER TABLE %%s ALTER COLUMN %%I SET DEFAULT %%s',
                             e.adrelid::regclass, a.attname, pg_get_expr(e.adbin, e.adrelid))
                 FROM pg_attrdef e
                 JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                WHERE e.oid = %(oid)s)
         WHEN 'generated column' THEN
              (SELECT format('ALTER TABLE %%s ADD COLUMN %%I %%s GENERATED ALWAYS AS (%%s) STORED',
                             e.adrelid::regclass, a.attname,
                             format_type(a.atttypid, a.atttypmod),
                             pg_get_expr(e.adbin, e.adrelid))
                 FROM pg_attrdef e
                 JOIN pg_attribute a ON a.attrelid = e.adrelid AND a.attnum = e.adnum
                WHERE e.oid = %(oid)s)
         WHEN 'column' THEN
              (SELECT format(CASE WHEN c.relkind = 'c'
                             THEN 'ALTER TYPE %%s ALTER ATTRIBUTE %%s TYPE %%s'
                             ELSE 'ALTER TABLE %%s ALTER COLUMN %%s TYPE %%s USING %%2$s::%%3$s'
                             END, c.oid::regclass, %(column)s::text,
                             format_type(a.atttypid, a.atttypmod))
                 FROM pg_class c
                 JOIN pg_attribute a
                   ON a.attrelid = c.oid AND quote_ident(a.attname) = %(column)s
                WHERE c.oid = %(oid)s)
         WHEN 'table' THEN
              (SELECT CASE WHEN c.reloftype <> 0
                      THEN format('ALTER TABLE %%s OF %%s', c.oid::regclass, c.reloftype::regtype)
                      ELSE format('ALTER TABLE %%s INHERIT %%s', c.oid::regclass,
                                  %(used)s::oid::regclass) END
                 FROM pg_class c WHERE c.oid = %(oid)s)
         ELSE CASE %(class)s
              WHEN 'pg_type' THEN
                   (SELECT format('CREATE DOMAIN %%s AS %%s%%s', t.oid::regtype, t.typbasetype::regtype,
                                  (SELECT string_agg(format(' CONSTRAINT %%I %%s', conname,
                                                            pg_get_constraintdef(oid)), '')
                                     FROM pg_constraint WHERE contypid = t.oid))
                      FROM pg_type t WHERE t.oid = %(oid)s AND t.typtype = 'd')
              WHEN 'pg_cast' THEN
                   (SELECT format('CREATE CAST (%%s AS %%s) %%s%%s', castsource::regtype,
                                  casttarget::regtype,
                                  CASE castmethod WHEN 'f' THEN 'WITH FUNCTION '
                                                                || castfunc::regprocedure
                                                  WHEN 'i' THEN 'WITH INOUT'
                                                  ELSE 'WITHOUT FUNCTION' END,
                                  CASE castcontext WHEN 'a' THEN ' AS ASSIGNMENT'
                                                   WHEN 'i' THEN ' AS IMPLICIT' END)
                      FROM pg_cast WHERE oid = %(oid)s) END
         END;

-- grant --
-- What makes this role a member of another one that is no superuser.
SELECT format('GRANT %%I TO %%I', rolname, current_user)
  FROM pg_roles WHERE rolname = %(role)s AND NOT rolsuper;

-- temporary --
-- The session that has a temporary relation: its number is in the name of the schema, which before
-- Postgres 16 no function knows.
SELECT CASE WHEN current_setting('server_version_num')::int >= 160000
            THEN pg_stat_get_backend_pid(substr(n.nspname, 9)::int) END
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = %(relation)s AND n.nspname ~ '^pg_temp_[0-9]+$';
