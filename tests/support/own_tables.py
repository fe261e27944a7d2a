"""Tables that no library of esops' made: a stream is named by two columns, and positions are taken
from the highest one, as @acuris/eventstore-postgresql 3.0.1 does (its own SQL, PgSchemaManager.js).
"""

from __future__ import annotations

ACURIS = """
CREATE SCHEMA es;
CREATE TABLE es.event(
    position int8 not null,
    stream_category text      not null,
    stream_id       text      not null,
    event_number    int       not null,
    event_type      text      not null,
    timestamp       timestamp not null,
    data            jsonb     not null,
    metadata        jsonb
);
ALTER TABLE es.event ADD PRIMARY KEY(position);
ALTER TABLE es.event ADD UNIQUE(stream_category, stream_id, event_number);
CREATE FUNCTION es.write_event(new_event_category text, new_event_stream_id text,
                               new_event_type text,
                               new_event_data jsonb, new_event_metadata jsonb,
                               expected_event_number int4,
                               OUT written_event_number int4, OUT written_position int8)
    VOLATILE
    SECURITY DEFINER
    LANGUAGE plpgsql AS
$_$
DECLARE
    latest_position     int8;
    latest_event_number int4;
BEGIN
    LOCK TABLE es.event IN SHARE ROW EXCLUSIVE MODE;
    SELECT e.event_number
    INTO latest_event_number
    FROM es.event e
    WHERE e.stream_category = new_event_category
      AND e.stream_id = new_event_stream_id
    ORDER BY e.event_number DESC
    LIMIT 1;
    IF NOT FOUND THEN
        written_event_number := 0;
    ELSE
        written_event_number := latest_event_number + 1;
    END IF;
    SELECT position INTO latest_position FROM es.event e ORDER BY e.position DESC LIMIT 1;
    IF NOT FOUND THEN
        written_position := 1;
    ELSE
        written_position := latest_position + 1;
    END IF;
    INSERT INTO es.event(position, stream_category, stream_id, event_number, event_type, timestamp,
                         data, metadata)
    VALUES (written_position, new_event_category, new_event_stream_id, written_event_number,
            new_event_type, clock_timestamp(), new_event_data, new_event_metadata);
END;
$_$;
"""
ACURIS_TABLE = {
    "name": "es.event",
    "stream": ["stream_category", "stream_id"],
    "version": "event_number",
    "position": "position",
    "position_by": "max_plus_one",
    "type": "event_type",
    "data": "data",
    "metadata": "metadata",
    "time": "timestamp",
}

CASTORE = """
CREATE TABLE castore (at bigserial PRIMARY KEY, aggregate_name text NOT NULL,
    aggregate_id text NOT NULL, version int NOT NULL, type text NOT NULL, payload jsonb NOT NULL,
    meta jsonb, timestamp timestamptz NOT NULL DEFAULT now(),
    UNIQUE (aggregate_name, aggregate_id, version))
"""
CASTORE_TABLE = {
    "name": "castore",
    "stream": ["aggregate_name", "aggregate_id"],
    "version": "version",
    "position": "at",
    "type": "type",
    "data": "payload",
    "metadata": "meta",
    "time": "timestamp",
}


def castore(connection, pairs, length: int = 3) -> None:
    """The table, and for each pair a stream of so many events, written in turns."""
    connection.execute(CASTORE)
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO castore (aggregate_name, aggregate_id, version, type, payload) "
            "VALUES (%s, %s, %s, %s, %s)",
            [
                (name, id, version, "opened" if version == 1 else "added", '{"n": 1}')
                for version in range(1, length + 1)
                for name, id in pairs
            ],
        )
