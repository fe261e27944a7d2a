-- One version of a read model serves, whatever two commands do at the same time.

CREATE UNIQUE INDEX IF NOT EXISTS versions_one_active ON esops.versions (projection)
    WHERE state = 'active';
