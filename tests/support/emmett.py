"""Emmett's tables as 0.42 makes them, without its functions (tests/fixtures has a
real dump).
"""

from __future__ import annotations

from psycopg import sql


def create(connection, schema: str = "public", *, old_processors: bool = False) -> None:
    s = sql.Identifier(schema).as_string(None)
    processors = "emt_subscriptions" if old_processors else "emt_processors"
    identity = "subscription_id" if old_processors else "processor_id"
    checkpoint = (
        "last_processed_position bigint" if old_processors else "last_processed_checkpoint text"
    )
    connection.execute(f"""
        CREATE SCHEMA IF NOT EXISTS {s};
        CREATE SEQUENCE {s}.emt_global_message_position;
        CREATE TABLE {s}.emt_streams (
            stream_id text NOT NULL, stream_position bigint NOT NULL, partition text NOT NULL
            DEFAULT 'emt:default',
            stream_type text NOT NULL, stream_metadata jsonb NOT NULL, is_archived boolean NOT NULL
            DEFAULT FALSE,
            PRIMARY KEY (stream_id, partition, is_archived)) PARTITION BY LIST (partition);
        CREATE TABLE {s}.emt_messages (
            stream_position bigint NOT NULL, global_position bigint DEFAULT
            nextval('{s.replace(chr(39), 2 * chr(39))}.emt_global_message_position'),
            transaction_id xid8 NOT NULL, created timestamptz NOT NULL DEFAULT now(), is_archived
            boolean NOT NULL DEFAULT FALSE,
            message_kind varchar(1) NOT NULL DEFAULT 'E', stream_id text NOT NULL, partition text
            NOT NULL DEFAULT 'emt:default',
            message_schema_version text NOT NULL, message_id text NOT NULL, message_type text NOT
            NULL,
            message_data jsonb NOT NULL, message_metadata jsonb NOT NULL,
            PRIMARY KEY (stream_id, stream_position, partition, is_archived)) PARTITION BY LIST
            (partition);
        CREATE TABLE {s}.{processors} (
            {checkpoint}, last_processed_transaction_id xid8 NOT NULL, version int NOT NULL DEFAULT
            1, {identity} text NOT NULL,
            partition text NOT NULL DEFAULT 'emt:default', status text NOT NULL DEFAULT 'stopped',
            processor_instance_id text DEFAULT 'emt:unknown',
            last_updated timestamptz NOT NULL DEFAULT now(), PRIMARY KEY ({identity}, partition,
            version));
    """)
    for table in ("emt_streams", "emt_messages"):
        connection.execute(f"""
            CREATE TABLE {s}.{table}_emt_default PARTITION OF {s}.{table} FOR VALUES IN
            ('emt:default') PARTITION BY LIST (is_archived);
            CREATE TABLE {s}.{table}_emt_default_active PARTITION OF {s}.{table}_emt_default FOR
            VALUES IN (FALSE);
            CREATE TABLE {s}.{table}_emt_default_archived PARTITION OF {s}.{table}_emt_default FOR
            VALUES IN (TRUE);
        """)


def archive(connection, stream: str, schema: str = "public") -> None:
    s = sql.Identifier(schema).as_string(None)
    for table in ("emt_messages", "emt_streams"):
        connection.execute(
            f"UPDATE {s}.{table} SET is_archived = TRUE WHERE stream_id = %s", (stream,)
        )


def append(connection, stream: str, *kinds: str, command: str = "E") -> list[str]:
    """What emt_append_to_stream of 0.42 does without an expectation: it looks only at rows that are
    not archived. Gives the ids.
    """
    with connection.transaction():
        row = connection.execute(
            "SELECT stream_position FROM emt_streams WHERE stream_id = %s AND is_archived = FALSE",
            (stream,),
        ).fetchone()
        at = row[0] if row else 0
        statement = (
            "UPDATE emt_streams SET stream_position = %(to)s WHERE stream_id = %(stream)s AND "
            "is_archived = FALSE"
            if row
            else "INSERT INTO emt_streams (stream_id, stream_position, stream_type, "
            "stream_metadata) VALUES (%(stream)s, %(to)s, split_part(%(stream)s, '-', 1), '{}')"
        )
        connection.execute(statement, {"to": at + len(kinds), "stream": stream})
        return [
            connection.execute(
                "INSERT INTO emt_messages (stream_position, transaction_id, message_kind, "
                "stream_id, message_schema_version, message_id, message_type, message_data, "
                "message_metadata) VALUES (%s, pg_current_xact_id(), %s, %s, '1', "
                "gen_random_uuid()::text, %s, '{}', '{}') RETURNING message_id",
                (number, command, stream, kind),
            ).fetchone()[0]
            for number, kind in enumerate(kinds, at + 1)
        ]


def restore(connection, dump: str) -> None:
    """A dump is one multi-statement call; it empties the search path."""
    connection.execute(dump)
    connection.execute("RESET ALL")


def add_partition(connection, name: str, schema: str = "public") -> None:
    """A partition of streams and messages, as `emt_add_partition` makes it."""
    s = sql.Identifier(schema).as_string(None)
    for table in ("emt_streams", "emt_messages"):
        connection.execute(f"""
            CREATE TABLE {s}.{table}_{name} PARTITION OF {s}.{table} FOR VALUES IN ('{name}')
            PARTITION BY LIST (is_archived);
            CREATE TABLE {s}.{table}_{name}_active PARTITION OF {s}.{table}_{name} FOR VALUES IN
            (FALSE);
            CREATE TABLE {s}.{table}_{name}_archived PARTITION OF {s}.{table}_{name} FOR VALUES IN
            (TRUE);
        """)


STORE_CHECKPOINT = """
CREATE FUNCTION store_processor_checkpoint(p_id text, p_version bigint, p_position text, p_check
text, p_transaction xid8, p_partition text, p_instance text)
RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    UPDATE emt_processors SET last_processed_checkpoint = p_position, last_processed_transaction_id
    = p_transaction, last_updated = now()
     WHERE processor_id = p_id AND last_processed_checkpoint = p_check AND partition = p_partition
     AND version = p_version;
    IF FOUND THEN RETURN 1; END IF;
    RETURN 2;
END $$;
"""
"""What Emmett 0.42's function does where a position to be checked is given (its own also writes the
old table).
"""
