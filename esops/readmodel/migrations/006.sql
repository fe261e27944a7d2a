-- Whether the store and a version are of one time: what the last applied event was, why a version's
-- rows are not of the store's log any more, and older marks, by which the last common position of two
-- histories is found.

ALTER TABLE esops.versions ADD COLUMN IF NOT EXISTS applied jsonb;
ALTER TABLE esops.versions ADD COLUMN IF NOT EXISTS lost text;

CREATE TABLE IF NOT EXISTS esops.older_marks (
    projection text NOT NULL,
    version    integer NOT NULL,
    position   text NOT NULL,
    mark       jsonb NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (projection, version, position)
);
