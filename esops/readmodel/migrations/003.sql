-- How far each process is of those that load one version together.

CREATE TABLE IF NOT EXISTS esops.shards (
    projection  text NOT NULL,
    version     integer NOT NULL,
    shard       integer NOT NULL,
    of          integer NOT NULL,
    until       text NOT NULL,
    position    text,
    events      bigint NOT NULL DEFAULT 0,
    rows        bigint NOT NULL DEFAULT 0,
    value_types jsonb NOT NULL DEFAULT '{}',
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, version, shard)
);
