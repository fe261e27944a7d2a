-- Versions whose rows were made of events that personal data was erased from afterwards: the rows
-- still have it, until the version is rebuilt or retired. Nothing here says what it was.
CREATE TABLE IF NOT EXISTS esops.erased (
    projection text NOT NULL,
    version    integer NOT NULL,
    rows       bigint NOT NULL,
    rules      text[] NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, version)
);
