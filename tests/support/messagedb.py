"""message-db's table as 1.3 makes it, without its functions (tests/fixtures has a
real dump).
"""

from __future__ import annotations


def create(connection, schema: str = "message_store") -> None:
    connection.execute(f"""
        CREATE SCHEMA IF NOT EXISTS {schema};
        CREATE TABLE {schema}.messages (
            global_position bigserial NOT NULL PRIMARY KEY, position bigint NOT NULL,
            time timestamp without time zone DEFAULT (now() AT TIME ZONE 'utc') NOT NULL,
            stream_name text NOT NULL, type text NOT NULL, data jsonb, metadata jsonb, id uuid
            DEFAULT gen_random_uuid() NOT NULL);
        CREATE UNIQUE INDEX messages_id ON {schema}.messages (id);
        CREATE UNIQUE INDEX messages_stream ON {schema}.messages (stream_name, position);""")
