"""Archived streams back into Postgres: at their own positions group by group, or all of them at new
ones, each in a transaction.

At new positions, the events wait in a temporary table of the session, in the server and on its
disk, until all of them are there. Only then are their numbers drawn, by the sequence that numbers
all events and in the order of the old positions, in the statement that inserts them. So a reader
waits for that statement only, sees all or nothing, and misses nothing: to it this is a writer as
any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pyarrow as pa
from psycopg import sql

from esops.errors import Refused
from esops.events import StreamKey
from esops.postgres.connection import connect, translated
from esops.postgres.session import use_own_path
from esops.postgres.statements import statements
from esops.stores.archiving import ArchivedGroup, Renumbered, StreamPart
from esops.stores.postgres.archived_rows import (
    WritableTable,
    insert_of_event,
    parameters,
    values_of,
)
from esops.stores.postgres.counted import count_parts
from esops.stores.postgres.insert_triggers import refuse_changed, taken_back
from esops.stores.postgres.layouts.archiving import LayoutArchiving, as_text
from esops.stores.postgres.layouts.base import Layout
from esops.stores.postgres.memory import forget_restored
from esops.stores.postgres.restoring import Restoring, refuse_taken, table_of
from esops.wording import count

_SQL = statements(__package__, "restorer")
_STREAMS_AT_ONCE = 500
_HIGHEST = (1 << 31) - 1
_ROWS_AT_ONCE = 1_000
_REASONS = {
    "version": "the store has another event at its version {version}",
    "id": "the store has the id of its version {version} in another place",
    "later": "the store has later events of it, and version {version} would come after them",
}
_LOCKS = "SET LOCAL lock_timeout = '5s'"


class StreamRestorer:
    """Restores into one layout, over connections of its own."""

    def __init__(self, layout: Layout, rules: LayoutArchiving, dsn: str) -> None:
        self._layout, self._rules, self._dsn = layout, rules, dsn

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection]:
        with (
            translated(),
            taken_back(),
            connect(self._dsn, "restore") as connection,
            connection.transaction(),
        ):
            connection.execute(_LOCKS)
            use_own_path(connection)  # for triggers of the application
            yield connection
            connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    def _restoring(self, connection: psycopg.Connection) -> Restoring:
        table = table_of(connection, self._layout.events)
        return Restoring(connection, self._rules, self._layout.events, table)

    def restore(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None] | None,
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """At their own positions; returns how many events were missing. Raises Refused."""
        with self._transaction() as connection:
            into = self._restoring(connection)
            if rows is not None:  # no row is locked where writers append
                into.make_streams(streams, rows)
            put, written = 0, _Written()
            for batch in batches:
                written.add(batch)
                for sequence in self._layout.sequences:
                    into.move_past(sequence.as_string(None), batch)
                self._check_room(into, batch)
                put += into.insert(batch)
                # A restored event is none that came late.
                for sequence in self._layout.sequences:
                    numbers = batch.column("position_1").to_pylist()
                    forget_restored(connection, sequence.as_string(None), numbers)
            if rows is not None:
                into.advance_streams(streams)
            written.check(connection, self._layout)
            return put

    def check_room(self, connection: psycopg.Connection, batches: Iterable[pa.RecordBatch]) -> None:
        """Raises Refused where an event's own position is another's, or yet to come."""
        into = self._restoring(connection)
        for batch in batches:
            self._check_room(into, batch)

    def _check_room(self, into: Restoring, batch: pa.RecordBatch) -> None:
        if self._layout.by_transactions:
            into.refuse_unwritten(batch)
        refuse_taken(into.taken(batch))

    def renumber(
        self,
        groups: Iterable[ArchivedGroup],
        *,
        skip_conflicts: bool,
        confirm: Callable[[], None],
    ) -> Renumbered:
        """At new positions, after all others. Raises Refused."""
        with self._transaction() as connection:
            waiting = _Waiting(connection, self._layout, self._rules, self._restoring(connection))
            for group in groups:
                waiting.add(group)
            done = waiting.insert(skip_conflicts=skip_conflicts)
            confirm()
            return done


class _Written:
    """How many events of each stream were written, or were there as they are in the archive."""

    def __init__(self) -> None:
        self._events: Counter[StreamKey] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        """Count some events."""
        names = (batch.column(name).to_pylist() for name in ("stream", "tenant"))
        self._events.update(map(StreamKey, *names))

    def items(self) -> list[tuple[StreamKey, int]]:
        """Each stream, and how many events."""
        return list(self._events.items())

    def check(self, connection: psycopg.Connection, layout: Layout) -> None:
        """Raises Refused, before anything is committed, where the store does not show them all."""
        _refuse_unseen(connection, layout, self.items())


def _refuse_unseen(
    connection: psycopg.Connection, layout: Layout, streams: Sequence[tuple[StreamKey, int]]
) -> None:
    parts = [StreamPart(key, 0, _HIGHEST) for key, _ in streams]
    there = count_parts(connection, layout, parts, archived=False) if parts else []
    for (key, events), number in zip(streams, there, strict=True):
        if number < events:
            raise Refused(
                f"of {count(events, 'event')} of stream {key.stream!r} that were written, the "
                f"store shows {number:,} under this name"
                + (f" and tenant {key.tenant!r}" if key.tenant else ""),
                hint="Nothing was written. Are the tables still those that the events came from? "
                "Restore into another store with --into.",
            )


class _Waiting:
    """Events and streams in temporary tables, in the transaction that inserts them."""

    def __init__(
        self,
        connection: psycopg.Connection,
        layout: Layout,
        rules: LayoutArchiving,
        restoring: Restoring,
    ) -> None:
        self._connection, self._rules, self._restoring = connection, rules, restoring
        self._table = WritableTable.of(connection, table_of(connection, layout.events))
        self._layout = layout
        self._names: list[str] = []
        """The columns that are written, the same in all batches."""
        self._execute("make_streams")

    def _execute(self, name: str, values: dict[str, object] | None = None) -> psycopg.Cursor:
        return self._connection.execute(sql.SQL(_SQL[name]).format(**self._parts()), values)

    def _parts(self) -> dict[str, sql.Composable]:
        rules = self._rules
        fields = [name for name in ("stream", "tenant", "version") if name in rules.columns]
        same = {name: _same(rules.columns[name]) for name in fields}
        stream = [same[name] for name in fields if name != "version"]
        # An id that is made up of stream and version is no column.
        id_column = rules.columns.get("id")
        same_id = _same(id_column) if id_column else sql.SQL("TRUE")
        number = rules.position[-1]
        (sequence, *_) = self._layout.sequences
        fresh: dict[str, sql.Composable] = {
            number: sql.SQL("nextval({}::regclass)").format(
                sql.Literal(sequence.as_string(self._connection))
            ),
            **rules.renewed,
        }
        names = [*self._names, *(name for name in fresh if name not in self._names)]
        tenant = rules.columns.get("tenant")
        return {
            "events": self._layout.events,
            "columns": sql.SQL(", ").join(map(sql.Identifier, self._names)),
            "into": sql.SQL(", ").join(map(sql.Identifier, names)),
            "values": sql.SQL(", ").join(
                fresh.get(name) or sql.Identifier("w", name) for name in names
            ),
            "order": sql.SQL(", ").join(map(sql.Identifier, rules.position)),
            "same_event": sql.SQL(" AND ").join(same.values()),
            "same_stream": sql.SQL(" AND ").join(stream),
            "same_id": same_id,
            "other_with_id": same_id if id_column else sql.SQL("FALSE"),
            "version": sql.Identifier(rules.columns["version"]),
            "stream": sql.Identifier("w", rules.columns["stream"]),
            "tenant": sql.Identifier("w", tenant) if tenant else sql.SQL("''"),
        }

    def add(self, group: ArchivedGroup) -> None:
        """Keep some streams for later."""
        written = _Written()
        with self._connection.cursor() as cursor:
            for batch in group.batches:
                written.add(batch)
                rows = values_of(batch, self._rules)
                if rows and not self._names:
                    self._names = self._table.written(list(rows[0]))
                    self._execute("make_events")
                into = sql.Identifier("pg_temp", "esops_events")
                insert = insert_of_event(into, self._table, self._names)
                for at in range(0, len(rows), _ROWS_AT_ONCE):
                    some = rows[at : at + _ROWS_AT_ONCE]
                    cursor.executemany(
                        insert, [parameters(row, self._table, self._names) for row in some]
                    )
            own = dict(zip(group.keys, group.rows, strict=True))
            cursor.executemany(
                _SQL["add_stream"],
                [(*key, own[key], events) for key, events in written.items()],
            )

    def insert(self, *, skip_conflicts: bool) -> Renumbered:
        """All that was kept, but for streams in whose place the store has others."""
        conflicts: dict[StreamKey, str] = {}
        if not self._names:
            return Renumbered(0, 0, conflicts)
        while True:
            with self._connection.transaction() as attempt:
                put = self._attempt()
                if put is not None:
                    return Renumbered(self._count("streams"), put, conflicts)
                raise psycopg.Rollback(attempt)
            found = self._conflicts()
            if not found:
                raise Refused(
                    "the store did not take an archived event, and esops does not know why: "
                    "a constraint or a trigger of its table may be in the way",
                    hint="Nothing was written. Restore into another store with --into.",
                )
            if not skip_conflicts:
                key, reason = next(iter(found.items()))
                raise Refused(
                    f"stream {key.stream!r} cannot be restored: {reason}",
                    hint="Nothing was written. With --skip-conflicts, such streams are left out.",
                )
            conflicts |= found
            for key in found:
                for name in ("drop_events", "drop_stream"):
                    self._execute(name, {"stream": key.stream, "tenant": key.tenant})

    def _attempt(self) -> int | None:
        """How many events came; None where not all could."""
        for streams in self._streams():
            keys = [key for key, _, _ in streams]
            self._restoring.make_streams(keys, [row for _, row, _ in streams])
        # What already exists stays where it is: the beginning of a stream, for example.
        self._execute("drop_present")
        if self._execute("later").fetchone() is not None:
            return None
        put = self._execute("insert").rowcount
        if put < self._count("events"):
            return None
        self._check()
        for streams in self._streams():
            self._restoring.advance_streams([key for key, _, _ in streams])
            there = [(key, events) for key, _, events in streams]
            _refuse_unseen(self._connection, self._layout, there)
        return put

    def _check(self) -> None:
        """Raises Refused where an event was not written as it is in the archive."""
        renewed = {self._rules.position[-1], *self._rules.renewed}
        kinds = self._table.kinds
        different = [
            sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
                as_text(sql.Identifier("e", name), kinds[name]),
                as_text(sql.Identifier("w", name), kinds[name]),
                sql.Literal(name),
            )
            for name in self._names
            if name not in renewed
        ]
        found = self._connection.execute(
            sql.SQL(_SQL["changed"]).format(
                **self._parts(), different=sql.SQL(", ").join(different)
            )
        ).fetchone()
        if found is not None:
            stream, version, columns = found
            what = f"version {version} of stream {stream!r}"
            refuse_changed(self._connection, what, columns, self._table.table)

    def _count(self, what: str) -> int:
        row = self._execute(f"count_{what}").fetchone()
        assert row is not None
        return int(row[0])

    def _streams(self) -> Iterator[list[tuple[StreamKey, str | None, int]]]:
        after = 0
        while rows := self._execute(
            "streams", {"after": after, "limit": _STREAMS_AT_ONCE}
        ).fetchall():
            yield [(StreamKey(*row[1:3]), *row[3:]) for row in rows]
            after = rows[-1][0]

    def _conflicts(self) -> dict[StreamKey, str]:
        return {
            StreamKey(stream, tenant): _REASONS[reason].format(version=version)
            for stream, tenant, version, reason in self._execute("conflicts").fetchall()
        }


def _same(column: str) -> sql.Composed:
    return sql.SQL("e.{0} = w.{0}").format(sql.Identifier(column))
