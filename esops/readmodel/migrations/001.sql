-- Which versions of read models there are, how far each one is, and what each rebuild did.

CREATE TABLE IF NOT EXISTS esops.projections (
    projection       text PRIMARY KEY,
    active_version   integer,
    previous_version integer,
    updated_at       timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS esops.versions (
    projection  text NOT NULL,
    version     integer NOT NULL,
    state       text NOT NULL CHECK (state IN ('building', 'standby', 'active', 'retired', 'aborted')),
    store       text NOT NULL,
    position    text,
    events      bigint NOT NULL DEFAULT 0,
    rows        bigint,
    tables      jsonb NOT NULL,
    fingerprint text,
    value_types jsonb NOT NULL DEFAULT '{}',
    after_load  jsonb NOT NULL DEFAULT '[]',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, version)
);

CREATE TABLE IF NOT EXISTS esops.dead_letters (
    projection     text NOT NULL,
    version        integer NOT NULL,
    position       text NOT NULL,
    event_id       text NOT NULL,
    stream         text NOT NULL,
    stream_version bigint NOT NULL,
    type           text NOT NULL,
    error          text NOT NULL,
    at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, version, position)
);

CREATE TABLE IF NOT EXISTS esops.rebuilds (
    rebuild      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection   text NOT NULL,
    state        text NOT NULL,
    resume_state text,
    from_version integer,
    to_version   integer NOT NULL,
    options      jsonb NOT NULL DEFAULT '{}',
    verification jsonb,
    reason       text,
    host         text NOT NULL,
    pid          integer NOT NULL,
    seconds      double precision NOT NULL DEFAULT 0,
    started_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz
);

CREATE TABLE IF NOT EXISTS esops.rebuild_log (
    rebuild bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    step    text NOT NULL,
    event   text NOT NULL,
    detail  jsonb NOT NULL DEFAULT '{}'
);
