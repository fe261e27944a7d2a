-- begin --
-- A planned rebuild, entered by this process.
INSERT INTO esops.rebuilds (projection, state, from_version, to_version, options, host, pid)
VALUES (%(projection)s, 'planned', %(from_version)s, %(to_version)s, %(options)s, %(host)s, %(pid)s)
RETURNING rebuild, projection, state, resume_state, from_version, to_version, options, verification,
    reason, host, pid, seconds, started_at, updated_at, finished_at;

-- latest --
-- The newest rebuild of a projection, finished or not.
SELECT rebuild, projection, state, resume_state, from_version, to_version, options, verification,
    reason, host, pid, seconds, started_at, updated_at, finished_at
FROM esops.rebuilds
WHERE projection = %s
ORDER BY rebuild DESC
LIMIT 1;

-- reopen --
-- From now on this process works on it.
UPDATE esops.rebuilds
SET state = %(state)s, resume_state = NULL, reason = NULL, host = %(host)s, pid = %(pid)s, updated_at = now()
WHERE rebuild = %(rebuild)s
RETURNING rebuild, projection, state, resume_state, from_version, to_version, options, verification,
    reason, host, pid, seconds, started_at, updated_at, finished_at;

-- enter --
-- A state is reached; the last one is the end. Both are noted, or neither.
WITH entered AS (
    UPDATE esops.rebuilds
    SET state = %(state)s, updated_at = now(),
        finished_at = CASE WHEN %(finished)s THEN now() ELSE finished_at END
    WHERE rebuild = %(rebuild)s)
INSERT INTO esops.rebuild_log (rebuild, step, event, detail)
VALUES (%(rebuild)s, %(state)s, 'done', '{}');

-- pause --
-- Work has stopped; the state in which it stopped is where it is resumed.
UPDATE esops.rebuilds
SET state = 'paused', resume_state = %(state)s, reason = %(reason)s, updated_at = now()
WHERE rebuild = %(rebuild)s;

-- switched_inline --
-- The last switch that made a version serve which the application writes itself, and what was said
-- of it afterwards.
SELECT r.rebuild, l.at, r.from_version, l.detail ->> 'code',
       EXISTS (SELECT FROM esops.rebuild_log h
                WHERE h.rebuild = r.rebuild AND h.event = %(healed)s AND h.at >= l.at),
       EXISTS (SELECT FROM esops.rebuild_log e
                WHERE e.rebuild = r.rebuild AND e.event = %(ended)s AND e.at >= l.at)
FROM esops.rebuilds r
JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(switched)s
WHERE r.projection = %(projection)s AND r.to_version = %(version)s
ORDER BY l.at DESC
LIMIT 1;

-- composition --
-- What the tables of a version had when the other one was made like them, or took their place; of
-- one that other versions have served since, what the one had that took its place.
SELECT l.detail -> 'tables'
FROM esops.rebuilds r
JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = %(event)s
WHERE r.projection = %(projection)s
  AND (l.detail ->> 'for')::integer = %(for)s
ORDER BY (l.detail ->> 'of')::integer = %(of)s DESC, l.at DESC
LIMIT 1;

-- accepted_code --
-- Where the operator vouched for other code; what came before a new beginning counts no more.
SELECT l.at, r.host, l.detail ->> 'position'
FROM esops.rebuilds r
JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = 'code accepted'
WHERE r.projection = %(projection)s AND r.to_version = %(version)s
  AND r.rebuild = (SELECT max(n.rebuild) FROM esops.rebuilds n
                   WHERE n.projection = %(projection)s AND n.to_version = %(version)s)
  AND NOT EXISTS (SELECT FROM esops.rebuild_log b
                  WHERE b.rebuild = r.rebuild AND b.step = 'provisioned' AND b.event = 'done'
                    AND b.at > l.at)
ORDER BY l.at;

-- retire_after --
UPDATE esops.rebuilds
SET options = CASE WHEN %(seconds)s::float IS NULL THEN options - 'retire_after'
                   ELSE options || jsonb_build_object('retire_after', %(seconds)s::float) END
WHERE rebuild = %(rebuild)s;

-- load_in_one --
UPDATE esops.rebuilds SET options = options || '{"workers": 1, "measured": false}'
WHERE rebuild = %s;

-- keep_before --
UPDATE esops.rebuilds SET options = options || %s WHERE rebuild = %s;

-- keep_blue --
UPDATE esops.rebuilds
SET options = options - 'retire_after'
WHERE projection = %s AND from_version = %s AND state = 'switched' AND options ? 'retire_after';

-- due --
-- Versions before a switch whose time by --retire-after is over, and that still stand by. Only the
-- last rebuild that replaced a version says what becomes of it; and a version to which a rollback
-- would go back is dropped only by the rebuild that made it so.
SELECT r.projection, r.from_version
FROM esops.rebuilds r
JOIN esops.versions v ON v.projection = r.projection AND v.version = r.from_version
WHERE r.projection = ANY(%s)
    AND r.state = 'switched'
    AND v.state = 'standby'
    AND r.options ? 'retire_after'
    AND r.finished_at + (r.options ->> 'retire_after')::float * interval '1 second' <= now()
    AND NOT EXISTS (
        SELECT FROM esops.rebuilds later
        WHERE later.projection = r.projection AND later.rebuild > r.rebuild
            AND r.from_version IN (later.from_version, later.to_version)
    )
    AND NOT EXISTS (
        SELECT FROM esops.projections p
        WHERE p.projection = r.projection AND p.previous_version = r.from_version
            AND p.active_version <> r.to_version
    );

-- owes_hook --
-- A switch whose hook has not succeeded, unless another version serves by now.
SELECT r.rebuild
FROM esops.rebuilds r
JOIN esops.projections p ON p.projection = r.projection AND p.active_version = r.to_version
WHERE r.rebuild = %(rebuild)s
    AND r.state = 'switched'
    AND EXISTS (SELECT FROM esops.rebuild_log l WHERE l.rebuild = r.rebuild AND l.event = %(owed)s)
    AND NOT EXISTS (SELECT FROM esops.rebuild_log l
                    WHERE l.rebuild = r.rebuild AND l.event = %(ended)s);

-- rolled_back --
-- The transaction that changes which version serves begins before it writes to the log.
SELECT l.at
FROM esops.projections p
JOIN esops.rebuilds r ON r.projection = p.projection
JOIN esops.rebuild_log l ON l.rebuild = r.rebuild AND l.event = 'rolled back'
WHERE p.projection = %s
    AND l.at >= p.updated_at
    AND (l.detail ->> 'to')::integer = p.active_version
ORDER BY l.at DESC
LIMIT 1;
