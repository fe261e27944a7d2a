-- stands --
-- For how many seconds the checkpoints of live versions have been where they are, by the clock that
-- they are kept by.
SELECT projection, version, extract(epoch FROM clock_timestamp() - updated_at)::float
  FROM esops.versions
 WHERE projection = ANY(%(projections)s) AND state IN ('active', 'standby')
   AND updated_at <= clock_timestamp() - %(after)s * interval '1 second';
