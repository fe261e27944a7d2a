-- Who did what with esops, and how it ended (esops history). A row is written when a command is
-- about to write, and completed when it ends. Whether the process of a row that is running is there
-- still is told by a lock that its session holds, not by this table.

CREATE TABLE IF NOT EXISTS esops.actions (
    id          uuid PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    role        text NOT NULL DEFAULT session_user,
    os_user     text NOT NULL,
    host        text NOT NULL,
    pid         integer NOT NULL,
    esops       text NOT NULL,
    command     text NOT NULL,
    subject     text NOT NULL,
    projections text[] NOT NULL, -- none: all of the configuration, or it concerns none
    options     text NOT NULL, -- never a value that may be a person's, or an address
    result      text NOT NULL DEFAULT 'running',
    exit_code   integer
);
CREATE INDEX IF NOT EXISTS actions_in_order ON esops.actions (at);
