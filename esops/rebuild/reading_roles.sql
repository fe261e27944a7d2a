-- lacking --
-- Which of some roles may not read what has the name now; all of them where nothing has it.
SELECT name FROM unnest(%(roles)s::text[]) AS name
WHERE %(relation)s::oid IS NULL OR NOT has_table_privilege(name, %(relation)s::oid, 'SELECT');

-- unknown --
SELECT name FROM unnest(%s::text[]) AS name
WHERE name <> 'public' AND to_regrole(quote_ident(name)) IS NULL;

-- outside --
SELECT name FROM unnest(%(roles)s::text[]) AS name
WHERE NOT has_schema_privilege(name, %(schema)s, 'USAGE');

-- others --
-- Examples of roles that could be meant: those that are connected now come first.
SELECT rolname FROM pg_roles
WHERE rolcanlogin AND NOT rolsuper AND rolname NOT LIKE 'pg\_%'
  AND NOT pg_has_role(oid, current_user, 'USAGE')
ORDER BY rolname IN (SELECT usename FROM pg_stat_activity WHERE datname = current_database()) DESC,
  rolname
LIMIT 3;
