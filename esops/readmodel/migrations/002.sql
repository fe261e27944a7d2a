-- What a second terminal asks of work under way: pause, rates, when to switch.

CREATE TABLE IF NOT EXISTS esops.controls (
    projection text PRIMARY KEY,
    paused     boolean NOT NULL DEFAULT false,
    postponed  boolean NOT NULL DEFAULT false,
    switch_now boolean NOT NULL DEFAULT false,
    limits     jsonb NOT NULL DEFAULT '{}',
    by         text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
