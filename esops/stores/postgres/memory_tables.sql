-- What settling remembers between processes, in the database of the events: where their sequence was
-- seen and when, which missing numbers were passed as dead, and events that came at such numbers. `log`
-- names the sequence. All three are bounded.

CREATE TABLE IF NOT EXISTS esops.sightings (
    log      text NOT NULL,
    sequence bigint NOT NULL,
    number   bigint NOT NULL,
    first_at timestamptz NOT NULL,
    last_at  timestamptz NOT NULL,
    PRIMARY KEY (log, number)
);

CREATE TABLE IF NOT EXISTS esops.passed (
    log       text NOT NULL,
    sequence  bigint NOT NULL,
    first     bigint NOT NULL,
    last      bigint NOT NULL,
    evidence  text NOT NULL,
    passed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log, first, last)
);

CREATE TABLE IF NOT EXISTS esops.late_events (
    log       text NOT NULL,
    number    bigint NOT NULL,
    passed_at timestamptz NOT NULL,
    found_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (log, number)
);
