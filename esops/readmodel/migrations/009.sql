-- Erasures that named places where a value is left, until somebody says that these are cleared:
-- once events are masked, nobody knows any more what to look for. Nothing here says what it was;
-- `asked` are salted hashes of what was asked for, so that the same request is recognised.
CREATE TABLE IF NOT EXISTS esops.erasures (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    store       text NOT NULL,
    reason      text NOT NULL,
    salt        bytea NOT NULL,
    asked       bytea[] NOT NULL,
    places_left bigint NOT NULL,
    places      jsonb NOT NULL,
    ended       boolean NOT NULL,
    at          timestamptz NOT NULL DEFAULT clock_timestamp()
);
