-- state --
-- The oid comes from the row that is read, so that it is that of the sequence which bears the name
-- now. The clock is read after the value.
SELECT s.tableoid::bigint, s.last_value, s.is_called,
       extract(epoch FROM clock_timestamp())::float8, q.seqcache, q.seqincrement, q.seqcycle
  FROM {sequence} s JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.tableoid;
