-- holders --
-- The transactions that hold a table in any way, as one does that has read it. Every role may see that.
-- Those of esops and of a dump write no row; autovacuum has no user.
SELECT DISTINCT l.virtualtransaction, l.pid
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'relation' AND l.relation = %(table)s AND l.pid <> pg_backend_pid()
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND a.usesysid IS NOT NULL AND a.application_name !~ '^(esops|pg_dump)'
