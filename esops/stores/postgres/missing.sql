-- extent --
SELECT min({number}), max({number}) FROM {events} WHERE {numbered};

-- off_the_grid --
-- How many of the newest numbers the sequence itself cannot have given: its application gave them.
SELECT count(*) FROM (
    SELECT {number} AS number FROM {events} WHERE {numbered} ORDER BY {number} DESC LIMIT 1000
) AS newest
 WHERE (number - %(own)s) %% %(increment)s <> 0;

-- last --
SELECT max({number}) FROM {events}
 WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s;

-- next --
SELECT min({number}) FROM {events}
 WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s;

-- first_missing --
-- Of the first rows after a number: how many there are, the last one's number, and the two numbers
-- between which the first is missing.
WITH piece AS (
    SELECT {number} AS number FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} LIMIT %(rows)s
), steps AS (
    SELECT number, lag(number, 1, %(after)s::bigint) OVER (ORDER BY number) AS previous FROM piece
)
SELECT count(*), max(number),
       min(previous) FILTER (WHERE number - previous > 1),
       min(number) FILTER (WHERE number - previous > 1)
  FROM steps;

-- missing --
-- The first ranges that are missing after a number.
WITH piece AS (
    SELECT {number} AS number FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} LIMIT %(rows)s
), steps AS (
    SELECT number, lag(number, 1, %(after)s::bigint) OVER (ORDER BY number) AS previous FROM piece
)
SELECT previous + 1, number - 1 FROM steps WHERE number - previous > 1
 ORDER BY 1 LIMIT %(ranges)s;

-- newest_missing --
-- The newest ranges that are missing between two numbers, both of them excluded.
WITH piece AS (
    SELECT {number} AS number FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} DESC LIMIT %(rows)s
), ends AS (
    SELECT number FROM piece
    UNION ALL SELECT %(until)s::bigint + 1
    UNION ALL SELECT %(after)s::bigint WHERE (SELECT count(*) FROM piece) < %(rows)s
), steps AS (
    SELECT number, lead(number) OVER (ORDER BY number) AS following FROM ends
)
SELECT number + 1, following - 1 FROM steps WHERE following - number > 1
 ORDER BY 1 DESC LIMIT %(ranges)s;

-- old_by_checkpoint --
-- Of some newest events, the highest number whose transaction began before the horizon; not one of
-- the few highest of them, which somebody may have written above the sequence.
SELECT (array_agg(number ORDER BY number DESC))[%(nth)s] FROM (
    SELECT {number} AS number, xmin FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} DESC LIMIT %(rows)s
) AS newest
 WHERE age(xmin) > age(%(horizon)s::xid);

-- old_by_commit_timestamp --
SELECT (array_agg(number ORDER BY number DESC))[%(nth)s] FROM (
    SELECT {number} AS number, xmin FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} DESC LIMIT %(rows)s
) AS newest
 WHERE pg_xact_commit_timestamp(xmin) < clock_timestamp() - %(threshold)s;

-- checkpoint --
-- The transaction id below which every transaction had ended when the server's last checkpoint
-- began, if that was long enough ago. An online checkpoint notes the oldest transaction that ran;
-- one of a shutdown notes none, since none ran (CreateCheckPoint in PostgreSQL's
-- src/backend/access/transam/xlog.c). With wal_level = minimal an online one notes none either, so
-- that it tells nothing.
SELECT CASE WHEN oldest_active_xid::text <> '0' THEN oldest_active_xid::text
            WHEN current_setting('wal_level') <> 'minimal' THEN split_part(next_xid, ':', 2) END
  FROM pg_control_checkpoint()
 WHERE checkpoint_time < clock_timestamp() - %(threshold)s;

-- sessions --
-- Who is connected to this database and may have drawn numbers: all but esops. For a session of
-- another role, the times are hidden from those who are no members of pg_read_all_stats.
SELECT extract(epoch FROM clock_timestamp())::float8, pid, usename, application_name,
       coalesce(state, '?'), extract(epoch FROM backend_start)::float8,
       extract(epoch FROM state_change)::float8, left(regexp_replace(query, '\s+', ' ', 'g'), 120)
  FROM pg_stat_activity
 WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND pid <> pg_backend_pid()
   AND pid NOT IN {ours}
   AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'parallel worker', 'walsender');

-- late --
-- Events at numbers that had been passed as dead.
SELECT e.number, p.passed_at
  FROM esops.passed p
 CROSS JOIN LATERAL (
    SELECT {number} AS number FROM {events}
     WHERE {numbered} AND {number} BETWEEN p.first AND p.last
     ORDER BY 1 LIMIT 100
 ) AS e
 WHERE p.log = %(log)s
 ORDER BY 1 DESC LIMIT 1000;
