-- How far the jobs of `esops schema` came with the events of a store (schema check --since-last, schema
-- decode --resume), and what they found so far: one document for each job, store and selection. It is
-- written whole or not at all, and `revision` tells a process that another one was quicker.

CREATE TABLE IF NOT EXISTS esops.schema_progress (
    key        text PRIMARY KEY, -- a hash of all that is told apart
    store      text NOT NULL,
    job        text NOT NULL,
    selection  text NOT NULL, -- which events, as JSON: types and categories, never a value
    revision   bigint NOT NULL,
    document   text NOT NULL, -- JSON; no jsonb, which takes no zero characters in names
    position   text,
    mark       text, -- JSON: what tells this log at the position from any other
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
