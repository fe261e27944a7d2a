CREATE TABLE {table} (
    cart_id  text PRIMARY KEY,
    client   text NOT NULL,
    items    integer NOT NULL,
    total    numeric(12, 2) NOT NULL,
    status   text NOT NULL,
    position bigint NOT NULL
);
CREATE INDEX ON {table} (client);
CREATE INDEX ON {table} (status);
COMMENT ON TABLE {table} IS 'what is in each cart, for the shop''s pages';
