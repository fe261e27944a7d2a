"""message-db (Eventide): one table `messages`, streams named `category-id`, positions of a stream
from 0.

A writer takes an advisory lock on its category's hash before it draws a number. That settles a
category and not the whole, so the general rule reads. Consumers keep their positions as messages of
type Recorded. Facts: message-db's database/ sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.settings import PostgresSettings
from esops.stores.masking import Document
from esops.stores.postgres.layouts.appending import at, expect, insert_each
from esops.stores.postgres.layouts.archiving import numbered_archiving
from esops.stores.postgres.layouts.base import Mapped
from esops.stores.postgres.layouts.numbered import Dying, NumberedLayout, sequence_behind

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
_SQL = statements(__package__, "messagedb")
_RECORDED_EVERY = 100
"""After how many messages a consumer records its position, where its application does not say
otherwise. Fact: `position_update_interval` of Eventide's consumer.
"""
_POSITION_STREAM = r"^[^-]+:([^-]*\+)?position(\+[^-]*)?(-.*)?$"
"""Consumers add the type `position` to the types of their category, and an identifier where they
have one: `account:position-mailer`, `account:command+position`. Fact: Eventide's consumer-postgres.
"""


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[MessageDb]:
    """message-db's stores in a database."""
    found = catalog.tables_with(connection, _COLUMNS, settings.db_schema)
    return [
        MessageDb(connection, table, Dying.by(settings))
        for table in found
        if table.name == "messages"
    ]


class MessageDb(NumberedLayout):
    """The table `messages` of one schema."""

    name = "messagedb"
    version = "1.x"
    first_version = 0
    mapped = Mapped(
        id=sql.SQL("id::text"),
        stream=_C("stream_name"),
        version=_C("position"),
        type=_C("type"),
        data=_C("data"),
        metadata=_C("metadata"),
        recorded_at=sql.SQL("(time AT TIME ZONE 'utc')"),
    )
    id_column = _C("id")
    naive_time = _C("time")
    stream_column = _C("stream_name")
    documents = (
        Document("data", "data", checked=True),
        Document("metadata", "metadata", checked=True),
    )

    def __init__(self, connection: psycopg.Connection, table: catalog.Table, dying: Dying) -> None:
        """`table` is what the catalogue says of `messages`."""
        super().__init__(
            table, "global_position", sequence_behind(connection, table, "global_position"), dying
        )
        self._sql = {
            name: sql.SQL(text).format(messages=self.events) for name, text in _SQL.items()
        }
        self.archiving = numbered_archiving(
            self.events, _EVENT, "global_position", never=_POSITION_STREAM
        )

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """What `write_message` does: the category's lock, the stream's next position, a row a
        message.
        """
        # The same key as in message-db's acquire_lock and hash_64, or both would write at once.
        category = stream.partition("-")[0]
        connection.execute(
            "SELECT pg_advisory_xact_lock(left('x' || md5(%s), 17)::bit(64)::bigint)", (category,)
        )
        row = connection.execute(self._sql["last_version"], (stream,)).fetchone()
        assert row is not None
        version: int = row[0]
        expect(stream, version, expected_version)
        rows = (
            (
                event.id,
                stream,
                number,
                event.type,
                event.data.decode(),
                event.metadata.decode(),
                at(event),
            )
            for number, event in enumerate(events, version + 1)
        )
        return insert_each(connection, self._sql["insert"], rows)

    def checkpoints(self, connection: psycopg.Connection) -> list[Checkpoint]:
        """The newest Recorded message of each consumer's position stream; each reads the category
        that its stream names.
        """
        rows = connection.execute(self._sql["checkpoints"], (_POSITION_STREAM,)).fetchall()
        return [
            Checkpoint(
                name,
                Position((int(number),)) if is_number else None,
                "recorded",
                at,
                category=_read_by(name),
                noted_every=_RECORDED_EVERY,
                evidence=""
                if is_number
                else f"the position that it recorded is {number or 'NULL'!r}, which is no position",
            )
            for name, number, is_number, at in rows
        ]


def _read_by(position_stream: str) -> str:
    """The category whose consumer keeps its position in a stream."""
    entity, _, types = position_stream.partition("-")[0].rpartition(":")
    others = [each for each in types.split("+") if each != "position"]
    return f"{entity}:{'+'.join(others)}" if others else entity
