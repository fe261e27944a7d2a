-- sessions --
-- Who holds a snapshot in this database. Every role may see that (PostgreSQL's pgstatfuncs.c), but since
-- when only of its own sessions or with pg_read_all_stats. A virtual transaction tells one transaction
-- from the next of the same session. Autovacuum has no user, and parallel workers have their leader's
-- snapshot.
SELECT a.pid, l.virtualtransaction, a.usename::text, a.application_name, a.xact_start
  FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted
   AND a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid()
   AND a.pid NOT IN {ours} AND coalesce(a.backend_type, '') <> 'parallel worker'
   AND a.backend_xmin IS NOT NULL
 ORDER BY a.xact_start NULLS LAST, a.pid;

-- refresh --
-- Within a transaction, Postgres shows the sessions of its first look, until its snapshot of them is cleared.
SELECT pg_stat_clear_snapshot();

-- now --
SELECT txid_snapshot_xmax(txid_current_snapshot());

-- standbys --
-- Replicas whose feedback says that a snapshot there is older than a transaction number.
SELECT concat_ws(' at ', coalesce(s.slot_name::text, nullif(r.application_name, ''), 'no name'),
                 host(r.client_addr))
  FROM pg_stat_replication r
  LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
 WHERE s.slot_type IS DISTINCT FROM 'logical'
   AND age(coalesce(s.xmin, r.backend_xmin)) > age((%(at)s %% 4294967296)::text::xid)
 ORDER BY 1;

-- replicas --
-- Replicas that replay WAL, as this role sees them: without pg_read_all_stats it does not see whether one
-- does. Logical replication, backups and archives of WAL replay nothing.
SELECT concat_ws(' at ', coalesce(s.slot_name::text, nullif(r.application_name, ''), 'no name'),
                 host(r.client_addr))
  FROM pg_stat_replication r
  LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
 WHERE s.slot_type IS DISTINCT FROM 'logical' AND (r.replay_lsn IS NOT NULL OR r.state IS NULL)
 ORDER BY 1;

-- prepared --
-- Prepared transactions, which keep the snapshots of replicas back.
SELECT gid, prepared FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared;
