-- What tells the store's log, at a version's checkpoint, from any other log. The store makes it and
-- reads it; here it is kept with the position that it belongs to.

CREATE TABLE IF NOT EXISTS esops.marks (
    projection text NOT NULL,
    version    integer NOT NULL,
    position   text NOT NULL,
    mark       jsonb NOT NULL,
    PRIMARY KEY (projection, version)
);
