-- highest --
SELECT max({number}) FROM {events} WHERE {numbered};

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

-- old_by_checkpoint --
-- The highest number among some newest events whose transaction began before the horizon.
SELECT max(number) FROM (
    SELECT {number} AS number, xmin FROM {events}
     WHERE {numbered} AND {number} > %(after)s AND {number} <= %(until)s
     ORDER BY {number} DESC LIMIT %(rows)s
) AS newest
 WHERE age(xmin) > age(%(horizon)s::xid);

-- old_by_commit_timestamp --
SELECT max(number) FROM (
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
