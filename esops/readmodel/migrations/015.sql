-- In which tables a version was built, by their oids, with the oid of esops.versions itself: where that
-- is another one, all was restored together, and the tables' oids say nothing.

ALTER TABLE esops.versions ADD COLUMN IF NOT EXISTS relations jsonb;
