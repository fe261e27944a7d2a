-- How often rows of a version were written without moving its checkpoint (projection check --heal,
-- dead letters replayed, rows made again after an erasure). Whoever keeps rows in memory compares it
-- in the statement that moves the checkpoint, so that none of them is written over a row made right.

ALTER TABLE esops.versions ADD COLUMN IF NOT EXISTS fence bigint NOT NULL DEFAULT 0;
