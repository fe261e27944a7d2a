-- First loads that apply the events partition by partition, from files in a directory: which events
-- of theirs are in the table. While there is such a row, the version's checkpoint does not say so.

CREATE TABLE IF NOT EXISTS esops.spills (
    projection  text NOT NULL,
    version     integer NOT NULL,
    shard       integer NOT NULL, -- -1 where one process loads the whole version
    spill       text NOT NULL,
    host        text NOT NULL,
    directory   text NOT NULL,
    fingerprint text,
    fresh       boolean NOT NULL,
    until       text, -- none while events are still being written to the files
    partitions  integer NOT NULL,
    partition   integer NOT NULL DEFAULT 0,
    done        bigint NOT NULL DEFAULT 0,
    stale       text,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, version, shard)
);
