"""A random store: its tables, and the rows in them."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from psycopg import sql

from esops.events import NewEvent
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import emmett, eventsourcing, marten, messagedb
from tests.support.random_stores.values import LITERALS, literal

SCHEMA = "random"
_TIMES = [
    "infinity",
    "-infinity",
    "0001-01-01 00:00:00+00",
    "0044-03-15 12:00:00+00 BC",
    "4714-11-24 00:00:00+00 BC",
    "294276-12-31 23:59:59.999999+00",
    "9999-12-31 23:59:59.999999+00",
    "1969-12-31 23:59:59.999999+00",
    "2024-02-29 12:00:00.1+00",
]


@dataclass(frozen=True)
class Layout:
    """Where a layout keeps things."""

    create: Callable[[Any], None]
    events: str
    streams: str | None = None
    time: str | None = None
    number: str = "version"
    settings: dict = field(default_factory=dict)
    text_ids: bool = True
    tenants: tuple[str, ...] = ()
    binary: str | None = None
    """A column for payloads of any bytes."""
    foreign_keys: bool = False
    skipped: bool = False


def _marten(variant: marten.Variant) -> Layout:
    own = replace(variant, schema=SCHEMA)
    return Layout(
        create=lambda connection: marten.create(connection, own),
        events="mt_events",
        streams="mt_streams",
        time="timestamp",
        settings={"append": "quick"},
        text_ids=variant.text_ids,
        tenants=("red", "blue") if variant.conjoined else (),
        binary="bdata" if variant.binary else None,
        foreign_keys=not (variant.conjoined or variant.partitioned),
        skipped=variant.optional,
    )


def _by_tenant(connection) -> None:
    connection.execute(f"SET search_path = {SCHEMA}")
    marten.create_numbered_by_tenant(connection)
    connection.execute("RESET search_path")


def _eventsourcing_text(connection) -> None:
    eventsourcing.create(connection, schema=SCHEMA)
    connection.execute(f"ALTER TABLE {SCHEMA}.bankaccounts_events ALTER originator_id TYPE text")


_EMMETT = Layout(
    create=lambda connection: emmett.create(connection, SCHEMA),
    events="emt_messages",
    streams="emt_streams",
    time="created",
    number="stream_position",
)
_EVENTSOURCING = Layout(
    create=lambda connection: eventsourcing.create(connection, schema=SCHEMA),
    events="bankaccounts_events",
    number="originator_version",
    text_ids=False,
    binary="state",
)
LAYOUTS = {
    **{name: _marten(each) for name, each in marten.VARIANTS.items() if name != "marten-schema"},
    "marten-binary-conjoined": _marten(
        marten.Variant(binary=True, conjoined=True, text_ids=True, optional=True)
    ),
    "marten-by-tenant": Layout(
        create=_by_tenant,
        events="mt_events",
        streams="mt_streams",
        time="timestamp",
        settings={"append": "quick", "tenant": "Red Inc"},
    ),
    "emmett": _EMMETT,
    "emmett-by-position": replace(_EMMETT, settings={"ordering": "position"}),
    "messagedb": Layout(
        create=lambda connection: messagedb.create(connection, SCHEMA),
        events="messages",
        time="time",
        number="position",
    ),
    "eventsourcing": _EVENTSOURCING,
    "eventsourcing-text": replace(_EVENTSOURCING, create=_eventsourcing_text, text_ids=True),
}


class Store:
    """The store of a seed, in a schema of its own."""

    def __init__(self, dsn: str, connection, seed: int, kinds: list[str]) -> None:
        """`kinds` are the types that extra columns may have."""
        self.chance = random.Random(seed)
        self.name = self.chance.choice(list(LAYOUTS))
        self.layout, self._connection, self._kinds = LAYOUTS[self.name], connection, kinds
        self.made_of = [self.name]
        self.settings = PostgresSettings(dsn=dsn, **{"schema": SCHEMA, **self.layout.settings})
        self.tables = [each for each in (self.layout.events, self.layout.streams) if each]

    def make(self) -> None:
        """Its tables and rows."""
        self._connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; CREATE SCHEMA {SCHEMA}")
        self.layout.create(self._connection)
        if self.layout.foreign_keys and self.chance.random() < 0.3:
            self._without_foreign_keys()
        self._fill()
        columns = self._add_columns(self.layout.events, 8)
        self._randomise(self.layout.events, columns)
        if self.layout.streams:
            columns = self._add_columns(self.layout.streams, 3)
            self._randomise(self.layout.streams, columns)
        self._add_computed(self.layout.events)
        if self.layout.streams:
            self._add_computed(self.layout.streams)

    def rows(self) -> list[list[str]]:
        """All rows of its tables as text."""
        return [
            [row[0] for row in self._connection.execute(self._all(table)).fetchall()]
            for table in self.tables
        ]

    def wipe(self) -> None:
        """As in a new database of the same tables."""
        names = ", ".join(f"{SCHEMA}.{table}" for table in self.tables)
        self._connection.execute(f"TRUNCATE {names}")

    def _all(self, table: str) -> str:
        return f"SELECT t::text FROM {SCHEMA}.{table} t ORDER BY 1"

    def _without_foreign_keys(self) -> None:
        query = "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = %s::regclass"
        table = f"{SCHEMA}.{self.layout.events}"
        for (name,) in self._connection.execute(query, (table,)).fetchall():
            self._connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        self.made_of.append("no foreign key")

    def _fill(self) -> None:
        for tenant in self.layout.tenants or (None,):
            settings = self.settings
            if tenant is not None:
                settings = settings.model_copy(update={"tenant": tenant})
            with open_store("s", settings) as store:
                for number in range(self.chance.randint(2, 4)):
                    name = f"cart-{number}" if self.layout.text_ids else str(uuid.uuid4())
                    for _ in range(self.chance.randint(1, 2)):
                        store.append(
                            name, [self._event() for _ in range(self.chance.randint(1, 6))]
                        )

    def _event(self) -> NewEvent:
        data = {"n": self.chance.choice([1, 1.5, "ü\u2028\\", None, 2**60, [{}]])}
        if self.layout.events == "bankaccounts_events":
            data["timestamp"] = "2024-01-01"
        kind = self.chance.choice(["bank:Account.Opened", "opened", "ünusual 'type'"])
        return NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data), b'{"correlationId": "c"}')

    def _add_columns(self, table: str, most: int) -> dict[str, str]:
        drawn = self.chance.sample(self._kinds, self.chance.randint(0, most))
        columns = {f"x{number} {kind}"[:20]: kind for number, kind in enumerate(drawn)}
        for name, kind in columns.items():
            self._alter(table, sql.SQL("ADD {} {}").format(sql.Identifier(name), sql.SQL(kind)))
        self.made_of += [f"{table}: {kind}" for kind in drawn]
        return columns

    def _randomise(self, table: str, columns: dict[str, str]) -> None:
        """Values into the columns of each row; times and bytes into the events'."""
        name = sql.Identifier(SCHEMA, table)
        if table == self.layout.events:
            if self.layout.time and self.chance.random() < 0.7:
                columns = {**columns, self.layout.time: "timestamptz"}
            if self.layout.skipped:
                columns = {**columns, "is_skipped": "bool"}
        # Partitions have their own row numbers: with the table's, a row has only one.
        ids = self._connection.execute(
            sql.SQL("SELECT tableoid::oid, ctid::text FROM {}").format(name)
        ).fetchall()
        for table_id, row_id in ids:
            sets = [
                sql.SQL("{} = {}::text::{}").format(
                    sql.Identifier(column), sql.Literal(self._value(column, kind)), sql.SQL(kind)
                )
                for column, kind in columns.items()
            ]
            if table == self.layout.events and self.layout.binary and self.chance.random() < 0.5:
                sets += self._bytes()
            if sets:
                self._connection.execute(
                    sql.SQL("UPDATE {} SET {} WHERE tableoid = {} AND ctid = {}::tid").format(
                        name, sql.SQL(", ").join(sets), table_id, row_id
                    )
                )

    def _value(self, column: str, kind: str) -> str | None:
        if column == self.layout.time:
            return self.chance.choice(_TIMES)
        return literal(kind, self.chance)

    def _bytes(self) -> list[sql.Composable]:
        content = self.chance.choice([b"", b"\0\xff\\x", b"{}", self.chance.randbytes(40)])
        sets: list[sql.Composable] = [
            sql.SQL("{} = {}").format(sql.Identifier(str(self.layout.binary)), content)
        ]
        if self.layout.binary == "bdata":
            sets.append(sql.SQL("data = '{{}}'").format())
        return sets

    def _add_computed(self, table: str) -> None:
        number = self.layout.number if table == self.layout.events else None
        forms = ["GENERATED ALWAYS AS IDENTITY", "GENERATED BY DEFAULT AS IDENTITY (START 7)"]
        ways = [f"bigint {form}" for form in forms]
        if number:
            ways += [
                f"int GENERATED ALWAYS AS ({number} * 2) STORED",
                f"float8 GENERATED ALWAYS AS ({number} / 3.0) VIRTUAL",
                f"text GENERATED ALWAYS AS ({number}::text || '  ') STORED",
            ]
        for at, way in enumerate(self.chance.sample(ways, self.chance.randint(0, 2))):
            self._alter(table, sql.SQL("ADD {} {}").format(sql.Identifier(f"y{at}"), sql.SQL(way)))
            self.made_of.append(f"{table}: {way}")

    def _alter(self, table: str, change: sql.Composable) -> None:
        name = sql.Identifier(SCHEMA, table)
        self._connection.execute(sql.SQL("ALTER TABLE {} {}").format(name, change))


assert LITERALS
