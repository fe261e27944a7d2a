-- Checks of read models against their events, and the keys whose rows were found wrong.

CREATE TABLE IF NOT EXISTS esops.checks (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection  text NOT NULL,
    version     integer, -- none where esops keeps no version of it
    state       text NOT NULL, -- running, done, stopped, failed; one that was killed is running for ever
    asked       jsonb NOT NULL, -- what was to be checked, and the seed of a sample
    position    text,
    checked     bigint NOT NULL DEFAULT 0,
    of_keys     bigint,
    differing   bigint NOT NULL DEFAULT 0,
    missing     bigint NOT NULL DEFAULT 0,
    surplus     bigint NOT NULL DEFAULT 0,
    unchecked   bigint NOT NULL DEFAULT 0,
    healed      bigint NOT NULL DEFAULT 0,
    columns     jsonb NOT NULL DEFAULT '{}',
    samples     jsonb NOT NULL DEFAULT '[]',
    reason      text,
    seconds     double precision,
    host        text NOT NULL,
    pid         integer NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX IF NOT EXISTS checks_of_projection ON esops.checks (projection, id);

-- Of the last checks of each projection, and a bounded number of each.
CREATE TABLE IF NOT EXISTS esops.check_keys (
    check_id   bigint NOT NULL REFERENCES esops.checks ON DELETE CASCADE,
    table_name text NOT NULL, -- as the application reads it
    key        text[] NOT NULL, -- the texts of the columns of the table's key, in their order
    kind       text NOT NULL, -- missing, surplus, unlike
    PRIMARY KEY (check_id, table_name, key)
);
