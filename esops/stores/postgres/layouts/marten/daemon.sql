-- progress --
-- The rows of progress, with what Marten keeps beside them only where it is told to
-- (EnableExtendedProgressionTracking): what its agent does, the age of its last heartbeat, and why it
-- paused, in words.
SELECT name, last_seq_id, last_updated, agent_status, clock_timestamp() - heartbeat,
    CASE WHEN agent_status = 'Paused' THEN 'Marten has paused it'
        || coalesce(' since ' || to_char(heartbeat AT TIME ZONE 'utc', 'YYYY-MM-DD HH24:MI')
            || ' UTC', '')
        || coalesce(' at event ' || failed, '')
        -- Of a chain of exceptions the cause says more than the first.
        || coalesce(': ' || left(coalesce(substring(pause_reason FROM '---> ([^\n]+)'),
            split_part(pause_reason, E'\n', 1)), 200), '') END
FROM (
    SELECT name, last_seq_id, last_updated, kept ->> 'agent_status' AS agent_status,
        (kept ->> 'heartbeat')::timestamptz AS heartbeat, kept ->> 'pause_reason' AS pause_reason,
        kept ->> 'failure_event_sequence' AS failed
    FROM (SELECT name, last_seq_id, last_updated, to_jsonb(p) AS kept FROM {progression} p) AS rows
) AS rows
ORDER BY name
