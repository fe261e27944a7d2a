"""The Python library eventsourcing (9.x): a table of events for each application, states as its
transcoder made them.

Writers lock the table before they draw numbers, unless the library's database functions write; the
general rule reads both. An event has no id of its own: one is made of its stream and version. A
state that is compressed or encrypted stays the bytes that it is. Facts: the library's postgres.py
and persistence.py.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import Checkpoint, NewEvent, Position
from esops.postgres import catalog
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.settings import PostgresSettings
from esops.stores.checkpoints import moved
from esops.stores.masking import Document
from esops.stores.parts import StoredPayloads
from esops.stores.payloads import DECODERS, decode_state
from esops.stores.postgres.drawn import refuse_beyond
from esops.stores.postgres.layouts.appending import expect, insert_each
from esops.stores.postgres.layouts.archiving import numbered_archiving
from esops.stores.postgres.layouts.base import NOTHING, Mapped
from esops.stores.postgres.layouts.expressions import same_uuid
from esops.stores.postgres.layouts.numbered import Dying, NumberedLayout, sequence_behind

_AGGREGATE = sql.SQL("split_part(split_part(topic, ':', 2), '.', 1)")
"""A topic is `module:Aggregate.Event`. A stream has several where a class has events of its
base.
"""
_COLUMNS = ["originator_id", "originator_version", "topic", "state", "notification_id"]
_TOPIC = sql.SQL("jsonb_build_object('topic', topic)")
_MIGRATED = "__migration__"
_EVENT = {"stream": "originator_id", "version": "originator_version", "data": "state"}
_C = sql.Identifier
_TRACKING = ["application_name", "notification_id"]
_UNNAMED = "stored"
"""What the library takes for an application without a name, in its tables' names."""
_SQL = statements(__package__, "eventsourcing")
_FROM_SNAPSHOTS = (
    "the library loads an aggregate without its first events from a snapshot only, and there is no "
    "table {}"
)


def detect(connection: psycopg.Connection, settings: PostgresSettings) -> list[Eventsourcing]:
    """The applications whose events are in a database; each is a store."""
    found = catalog.tables_with(connection, _COLUMNS, settings.db_schema)
    return [
        Eventsourcing(connection, table, Dying.by(settings))
        for table in found
        if settings.application is None or application(table.name) == settings.application.lower()
    ]


def _with_its_time(state: bytes) -> tuple[bytes, int | None]:
    return state, decode_state(state)[1]


def _plain(state: bytes) -> bytes:
    return decode_state(state)[0]


def application(table: str) -> str:
    """The application's name in its table's."""
    return table.removesuffix("_events")


class Eventsourcing(NumberedLayout):
    """The events of one application."""

    name = "eventsourcing"
    version = "9.x"
    mapped = Mapped(
        id=sql.SQL("md5(originator_id::text || ':' || originator_version)::uuid::text"),
        stream=sql.SQL("originator_id::text"),
        version=_C("originator_version"),
        type=sql.SQL("regexp_replace(topic, '^.*[.:]', '')"),
        data=_C("state"),
        metadata=NOTHING,
        recorded_at=sql.SQL("NULL::timestamptz"),
    )
    stream_column = _C("originator_id")
    category = _AGGREGATE
    documents = (Document("state", "data"),)
    made_up_ids = True
    dated = False

    def __init__(self, connection: psycopg.Connection, table: catalog.Table, dying: Dying) -> None:
        """`table` is what the catalogue says of the application's events."""
        super().__init__(
            table, "notification_id", sequence_behind(connection, table, "notification_id"), dying
        )
        self.decode = DECODERS[self.name]
        self.stream_kind = table.column("originator_id").kind
        snapshots = f"{application(table.name)}_snapshots"
        there = catalog.has_table(connection, table.schema, snapshots)
        self.archiving = numbered_archiving(
            self.events,
            _EVENT,
            "notification_id",
            self.stream_kind,
            snapshots=_C(table.schema, snapshots) if there else None,
            only_whole="" if there else _FROM_SNAPSHOTS.format(f"{table.schema}.{snapshots}"),
        )
        sample = connection.execute(
            sql.SQL("SELECT state FROM {} ORDER BY notification_id LIMIT 1").format(self.events)
        ).fetchone()
        # A compressed or encrypted state does not start as JSON does; one event tells of all.
        plain = sample is None or bytes(sample[0] or b"{")[:1] == b"{"
        self.detail = {
            "application": application(table.name),
            "states": "JSON"
            if plain
            else "compressed or encrypted; esops leaves them as they are, with unknown times",
        }

    @property
    def stored_payloads(self) -> StoredPayloads:
        """States with the library's types in them."""
        return self

    def give(self) -> Callable[[bytes], bytes]:
        """For the library's own mapper, which needs the topic."""
        self.decode = _with_its_time
        self.mapped = replace(self.mapped, metadata=_TOPIC)
        return _plain

    def stream_equals(self, name: str) -> sql.Composable:
        """By a uuid or a text, as the library was set up."""
        if self.stream_kind == "uuid":
            return same_uuid(_C("originator_id"), name)
        return sql.SQL("originator_id = {}").format(sql.Literal(name))

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """What the library does: the table's lock, the key's next version, a notification of those
        who wait.
        """
        # Before the version is read: the library's writers take this lock before they draw numbers.
        connection.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(self.events))
        row = connection.execute(_on("last_version", self.events), (stream,)).fetchone()
        assert row is not None
        version: int = row[0]
        expect(stream, version, expected_version)
        rows = (
            (stream, number, event.type, event.data)
            for number, event in enumerate(events, version + 1)
        )
        position = insert_each(connection, _on("insert", self.events), rows)
        connection.execute("SELECT pg_notify(%s, '')", (self._table.name,))
        return position

    def checkpoints(self, connection: psycopg.Connection) -> list[Checkpoint]:
        """The rows of tracking tables that follow this application.

        A row names the application that it follows; numbers of another one say nothing here.
        """
        return [
            Checkpoint(
                f"{self._downstream(table)}/{name}",
                None if number is None else Position((number,)),
                "tracked",
                None,
                evidence="its notification_id is NULL" if number is None else "",
            )
            for table, rows in self._tracked(connection).items()
            for name, number in rows
        ]

    def _tracked(
        self, connection: psycopg.Connection
    ) -> dict[catalog.Table, list[tuple[str, int | None]]]:
        """By tracking table, the rows that follow this application, with their numbers."""
        applications = {
            (each.schema, application(each.name))
            for each in catalog.tables_with(connection, _COLUMNS)
        }
        found: dict[catalog.Table, list[tuple[str, int | None]]] = {}
        # A follower may be in another schema than what it follows.
        for table in catalog.tables_with(connection, _TRACKING):
            if table.schema != self.schema and not _may_read(connection, table):
                continue
            rows = connection.execute(
                _on("tracked", _C(table.schema, table.name)), (_MIGRATED,)
            ).fetchall()
            found[table] = [row for row in rows if self._follows(table, row[0], applications)]
        return found

    def row_of(self, connection: psycopg.Connection, name: str) -> str | None:
        """The newest number of the tracking row."""
        downstream, _, upstream = name.rpartition("/")
        tracked = self._tracked(connection)
        table = next((each for each in tracked if self._downstream(each) == downstream), None)
        if table is None:
            return None
        asked = _on("reached", qualified(table.schema, table.name))
        row = connection.execute(asked, {"name": upstream}).fetchone()
        return None if row is None else str(row[0])

    def check_checkpoint(self, connection: psycopg.Connection, name: str) -> None:
        """By the tracking table, which may have no row yet."""
        self._tracking(connection, name)

    def _downstream(self, table: catalog.Table) -> str:
        own = table.name.removesuffix("_tracking")
        return own if table.schema == self.schema else f"{table.schema}.{own}"

    def _follows(
        self, table: catalog.Table, name: str, applications: Collection[tuple[str, str]]
    ) -> bool:
        """Whether a row follows this application: the library names the table of events after it,
        in lower case.
        """
        mine, followed = application(self._table.name), name.lower() or _UNNAMED
        if followed == mine:
            # One of that name in the follower's own schema is nearer.
            return table.schema == self.schema or (table.schema, mine) not in applications
        return mine == _UNNAMED and followed not in {each for _, each in applications}

    def set_checkpoint(
        self, connection: psycopg.Connection, name: str, position: Position, *, stopped: bool
    ) -> str:
        """Set a tracking row; `name` is `table/application`.

        The library's runners leave no sign of life, so `stopped` changes nothing. One that lives
        fails at its next event, since it enters that number itself.
        """
        del stopped
        table, upstream = self._tracking(connection, name)
        relation = qualified(table.schema, table.name)
        # A row that is not there yet cannot be locked, and a runner may be about to insert it.
        connection.execute(sql.SQL("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE").format(relation))
        values = {"number": position[0], "name": upstream}
        row = connection.execute(_on("reached", relation), values).fetchone()
        reached = row[0] if row else None
        refuse_beyond(connection, self.sequences, name, reached)
        if reached is not None and reached > position[0]:
            raise Refused(
                f"{name} is at {reached}, ahead of {position}",
                hint="Run it again with --resume: green catches up first.",
            )
        # The table keeps one row for each application, or one for each notification.
        a_row_an_application = table.key == ("application_name",) and reached is not None
        statement = "move" if a_row_an_application else "enter"
        connection.execute(_on(statement, relation), values)
        return moved(name, reached, position)

    def _tracking(self, connection: psycopg.Connection, name: str) -> tuple[catalog.Table, str]:
        """The table that keeps a checkpoint, and the application's name in it. Raises Refused where
        there is none.
        """
        downstream, _, upstream = name.rpartition("/")
        tracked = {
            self._downstream(table): (table, [each for each, _ in rows])
            for table, rows in self._tracked(connection).items()
        }
        if downstream not in tracked:
            raise Refused(
                f"there is no tracking table of {name!r}",
                hint="Name it as `esops status` does: application/upstream.",
            )
        table, names = tracked[downstream]
        mine = application(self._table.name)
        if upstream not in names and (upstream.lower() or _UNNAMED) != mine:
            own = " or ".join(f"{downstream}/{each}" for each in names)
            raise Refused(
                f"{name} follows the application {upstream!r}, and the store has the events of "
                f"{mine!r}",
                hint=f"Name {own or 'the row of that application'}, or let the projection read the "
                "store that has the events of the other one.",
            )
        return table, upstream


def _may_read(connection: psycopg.Connection, table: catalog.Table) -> bool:
    relation = _C(table.schema, table.name).as_string(connection)
    row = connection.execute("SELECT has_table_privilege(%s, 'SELECT')", (relation,)).fetchone()
    return row is not None and bool(row[0])


def _on(statement: str, table: sql.Composable) -> sql.Composed:
    return sql.SQL(_SQL[statement]).format(table=table)
