"""The Python library eventsourcing (9.x): a table of events for each application, states as its
transcoder made them.

Writers lock the table before they draw numbers, unless the library's database functions write; the
general rule reads both. An event
has no id of its own: one is made of its stream and version. A state that is compressed or encrypted
stays the bytes that it is.
Facts: the library's postgres.py and persistence.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.postgres.connection import qualified
from esops.settings import PostgresSettings
from esops.stores.postgres.layouts.archiving import numbered_archiving
from esops.stores.postgres.layouts.base import (
    NO_TENANT,
    NOTHING,
    Layout,
    Mapped,
    expect,
    insert_each,
    numbered,
    same_uuid,
)

_COLUMNS = ["originator_id", "originator_version", "topic", "state", "notification_id"]
_MIGRATED = "__migration__"
_EVENT = {"stream": "originator_id", "version": "originator_version", "data": "state"}
_C = sql.Identifier


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Layout]:
    """The applications whose events are in a database; each is a store."""
    found = catalog.tables_with(connection, _COLUMNS, settings.db_schema)
    return [
        _read(connection, table)
        for table in found
        if settings.application is None or application(table.name) == settings.application.lower()
    ]


def application(table: str) -> str:
    """The application's name in its table's."""
    return table.removesuffix("_events")


def _read(connection: psycopg.Connection, table: catalog.Table) -> Layout:
    events = _C(table.schema, table.name)
    aggregate = sql.SQL("split_part(split_part(topic, ':', 2), '.', 1)")
    sample = connection.execute(
        sql.SQL("SELECT state FROM {} ORDER BY notification_id LIMIT 1").format(events)
    ).fetchone()
    plain = sample is None or bytes(sample[0] or b"{")[:1] == b"{"
    return numbered(
        connection,
        table,
        "notification_id",
        name="eventsourcing",
        version="9.x",
        mapped=Mapped(
            id=sql.SQL("md5(originator_id::text || ':' || originator_version)::uuid::text"),
            stream=sql.SQL("originator_id::text"),
            version=_C("originator_version"),
            type=sql.SQL("regexp_replace(topic, '^.*[.:]', '')"),
            data=_C("state"),
            metadata=NOTHING,
            recorded_at=sql.SQL("NULL::timestamptz"),
            tenant=NO_TENANT,
        ),
        append=_Append(table),
        in_category=lambda name: sql.SQL("{} = {}").format(aggregate, sql.Literal(name)),
        stream_equals=lambda name: (
            same_uuid("originator_id", name)
            if table.column("originator_id").kind == "uuid"
            else sql.SQL("originator_id = {}").format(sql.Literal(name))
        ),
        checkpoints=lambda on: _checkpoints(on, table.schema),
        hand_over=lambda on, name, position: _hand_over(on, table.schema, name, position),
        decode=decode,
        stream_column=_C("originator_id"),
        stream_kind=table.column("originator_id").kind,
        archiving=numbered_archiving(
            events, _EVENT, "notification_id", table.column("originator_id").kind
        ),
        detail={
            "application": application(table.name),
            "states": "JSON"
            if plain
            else "compressed or encrypted: left as they are, and their times are not known",
        },
    )


_TIME_FIRST = b'{"timestamp":{"_type_":"datetime_iso","_data_":"'
"""How the library's own events begin."""
_AT = len(_TIME_FIRST)


def decode(state: bytes) -> tuple[bytes, int]:
    """A state as plain JSON, and its timestamp in microseconds; what is no JSON as it is, at 0.

    Most states begin with their timestamp and wrap nothing else: those are dealt with as bytes, in
    half the time.
    """
    if state.startswith(_TIME_FIRST):
        end = state.find(b'"}', _AT)
        at, rest = state[_AT:end], state[end + 2 :]
        if end > 0 and b'"_type_"' not in rest and b"\\" not in at:
            return b'{"timestamp":"' + at + b'"' + rest, _microseconds(
                at.decode("ascii", "replace")
            )
    try:
        value = orjson.loads(state)
    except orjson.JSONDecodeError:
        return state, 0
    if b'"_type_"' in state:
        value = _unwrapped(value)
        state = orjson.dumps(value)
    return state, _microseconds(value.get("timestamp") if isinstance(value, dict) else None)


def _microseconds(at: object) -> int:
    try:
        return round(datetime.fromisoformat(at).timestamp() * 1e6) if isinstance(at, str) else 0
    except ValueError:
        return 0


def _unwrapped(value: Any) -> Any:
    """What the transcoder wrapped as {"_type_": …, "_data_": …}, without the wrapping."""
    if isinstance(value, dict):
        if value.keys() == {"_type_", "_data_"}:
            return _unwrapped(value["_data_"])
        return {key: _unwrapped(inner) for key, inner in value.items()}
    return [_unwrapped(inner) for inner in value] if isinstance(value, list) else value


class _Append:
    """What the library does: the table's lock, the key's next version, a notification of those who
    wait.
    """

    def __init__(self, table: catalog.Table) -> None:
        self._events, self._channel = _C(table.schema, table.name), table.name

    def __call__(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(self._events))
        row = connection.execute(
            sql.SQL(
                "SELECT coalesce(max(originator_version), 0) FROM {} WHERE originator_id = %s"
            ).format(self._events),
            (stream,),
        ).fetchone()
        assert row is not None
        version: int = row[0]
        expect(stream, version, expected_version)
        statement = sql.SQL(
            "INSERT INTO {} (originator_id, originator_version, topic, state) VALUES (%s, %s, %s, "
            "%s) RETURNING notification_id"
        ).format(self._events)
        rows = (
            (stream, number, event.type, event.data)
            for number, event in enumerate(events, version + 1)
        )
        position = insert_each(connection, statement, rows)
        connection.execute("SELECT pg_notify(%s, '')", (self._channel,))
        return position


def _checkpoints(connection: psycopg.Connection, schema: str) -> list[Checkpoint]:
    """Tracking rows of the schema: one an application, or before 9.4 one a notification, of which
    the newest counts.
    """
    found = []
    for table in catalog.tables_with(connection, ["application_name", "notification_id"], schema):
        rows = connection.execute(
            sql.SQL(
                "SELECT application_name, max(notification_id) FROM {} WHERE application_name <> "
                "%s GROUP BY 1 ORDER BY 1"
            ).format(_C(table.schema, table.name)),
            (_MIGRATED,),
        ).fetchall()
        found += [
            Checkpoint(
                f"{table.name.removesuffix('_tracking')}/{name}",
                Position((number,)),
                "tracked",
                None,
            )
            for name, number in rows
            if number is not None
        ]
    return found


def _hand_over(connection: psycopg.Connection, schema: str, name: str, position: Position) -> None:
    """Set a tracking row, `table/application`, in the caller's transaction.

    Raises Refused where it is further.

    The library's runners leave no sign of life. One that lives fails at its next event, since it
    enters that number itself.
    """
    prefix, _, application = name.rpartition("/")
    table = catalog.find_table(connection, schema, f"{prefix}_tracking") if prefix else None
    if table is None:
        raise Refused(
            f"there is no tracking table of {name!r}",
            hint="Name it as `esops status` does: application/upstream.",
        )
    relation = qualified(table.schema, table.name)
    connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(relation))
    row = connection.execute(
        sql.SQL("SELECT max(notification_id) FROM {} WHERE application_name = %s").format(relation),
        (application,),
    ).fetchone()
    reached = row[0] if row else None
    if reached is not None and reached > position[0]:
        raise Refused(
            f"{name} stands at {reached}, ahead of {position}",
            hint="Go on with --resume: green catches up first.",
        )
    if table.key == ("application_name",) and reached is not None:
        statement = "UPDATE {} SET notification_id = %(number)s WHERE application_name = %(name)s"
    else:
        statement = (
            "INSERT INTO {} (application_name, notification_id) VALUES (%(name)s, "
            "%(number)s) ON CONFLICT DO NOTHING"
        )
    connection.execute(
        sql.SQL(statement).format(relation), {"number": position[0], "name": application}
    )
