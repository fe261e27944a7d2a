"""message-db (Eventide): one table `messages`, streams named `category-id`, positions of a stream
from 0.

A writer takes an advisory lock on its category's hash before it draws a number, which settles a
category and not the whole; so the
general rule reads. Consumers keep their positions as messages of type Recorded. Facts: message-db's
database/ sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts.archiving import numbered_archiving
from esops.stores.postgres.layouts.base import (
    NO_TENANT,
    Layout,
    Mapped,
    expect,
    insert_each,
    numbered,
    same_uuid,
)

_COLUMNS = ["global_position", "position", "time", "stream_name", "type", "data", "metadata", "id"]
_EVENT = {
    "stream": "stream_name",
    "version": "position",
    "type": "type",
    "id": "id",
    "data": "data",
    "metadata": "metadata",
    "recorded_at": "time",
}
_C = sql.Identifier
_POSITION_STREAM = r"^[^-]+:position(-.*)?$"
"""Consumers write to `<category>:position` or `<category>:position-<identifier>`."""


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Layout]:
    """message-db's stores in a database."""
    found = catalog.tables_with(connection, _COLUMNS, settings.db_schema)
    return [_read(connection, table) for table in found if table.name == "messages"]


def _read(connection: psycopg.Connection, table: catalog.Table) -> Layout:
    return numbered(
        connection,
        table,
        "global_position",
        name="messagedb",
        version="1.x",
        mapped=Mapped(
            id=sql.SQL("id::text"),
            stream=_C("stream_name"),
            version=_C("position"),
            type=_C("type"),
            data=_C("data"),
            metadata=_C("metadata"),
            recorded_at=sql.SQL("(time AT TIME ZONE 'utc')"),
            tenant=NO_TENANT,
        ),
        append=_Append(_C(table.schema, table.name)),
        checkpoints=lambda on: _checkpoints(on, _C(table.schema, table.name)),
        id_equals=lambda value: same_uuid("id", value),
        id_column=_C("id"),
        first_version=0,
        stream_column=_C("stream_name"),
        archiving=numbered_archiving(
            _C(table.schema, table.name), _EVENT, "global_position", never=_POSITION_STREAM
        ),
    )


class _Append:
    """What `write_message` does: the category's lock, the stream's next position, a row a
    message.
    """

    def __init__(self, messages: sql.Identifier) -> None:
        self._messages = messages

    def __call__(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        category = stream.partition("-")[0]
        connection.execute(
            "SELECT pg_advisory_xact_lock(left('x' || md5(%s), 17)::bit(64)::bigint)", (category,)
        )
        row = connection.execute(
            sql.SQL("SELECT coalesce(max(position), -1) FROM {} WHERE stream_name = %s").format(
                self._messages
            ),
            (stream,),
        ).fetchone()
        assert row is not None
        version: int = row[0]
        expect(stream, version, expected_version)
        statement = sql.SQL(
            "INSERT INTO {} (id, stream_name, position, type, data, metadata) "
            "VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb) RETURNING global_position"
        ).format(self._messages)
        rows = (
            (event.id, stream, number, event.type, event.data.decode(), event.metadata.decode())
            for number, event in enumerate(events, version + 1)
        )
        return insert_each(connection, statement, rows)


def _checkpoints(connection: psycopg.Connection, messages: sql.Identifier) -> list[Checkpoint]:
    """The newest Recorded message of each consumer's position stream."""
    rows = connection.execute(
        sql.SQL(
            "SELECT DISTINCT ON (stream_name) stream_name, (data->>'position')::bigint, time AT "
            "TIME ZONE 'utc' FROM {} "
            "WHERE type = 'Recorded' AND stream_name ~ %s ORDER BY stream_name, position DESC"
        ).format(messages),
        (_POSITION_STREAM,),
    ).fetchall()
    return [
        Checkpoint(name, Position((number,)), "recorded", at)
        for name, number, at in rows
        if number is not None
    ]
