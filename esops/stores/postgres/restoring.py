"""Archived streams back into a layout's tables: their rows made, their events inserted.

An event comes back at its own position or not at all. Another event may have that position where a
backup from before was restored, or in another database. Where the sequence has not come that far,
writers would be given these positions again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from esops.errors import Refused
from esops.events import StreamKey
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.postgres.values import type_name
from esops.stores.postgres.archived_rows import (
    Values,
    WritableTable,
    insert_of_event,
    insert_of_streams,
    parameters,
    values_of,
)
from esops.stores.postgres.comparing import Comparison
from esops.stores.postgres.insert_triggers import names_of_triggers, refuse_changed
from esops.stores.postgres.layouts.archiving import LayoutArchiving, as_text
from esops.stores.postgres.removing import keys_of

_SQL = statements(__package__, "restoring")
_ROWS_AT_ONCE = 1_000
_DRAWN_AT_MOST = 1_000_000
_HINT = (
    "Nothing of these streams was written. With --renumber, the events get new positions; with "
    "--skip-conflicts, these streams are left out. Or restore into another store with --into."
)


@dataclass(frozen=True, slots=True)
class TakenPosition:
    """An archived event, and the other one that has its position in the store."""

    position: str
    stream: str
    version: int
    other_stream: str
    other_version: int

    def __str__(self) -> str:
        return (
            f"position {self.position} of version {self.version} of {self.stream!r} is that of "
            f"version {self.other_version} of {self.other_stream!r}"
        )


class Restoring:
    """A restore, in the transaction of its connection."""

    def __init__(
        self,
        connection: psycopg.Connection,
        rules: LayoutArchiving,
        events: sql.Identifier,
        table: catalog.Table,
    ) -> None:
        """`events` names the table of events; `table` is what the catalogue says of it."""
        self._connection, self._rules = connection, rules
        self._events, self._table = events, WritableTable.of(connection, table)
        self._comparison = Comparison(rules, events, self._table)
        self._parts = _parts(rules, events, table)

    def make_streams(self, streams: Sequence[StreamKey], rows: Sequence[str | None]) -> None:
        """Make streams that are archived take events again, and make the rows of those that are
        not there.
        """
        keys = keys_of(streams)
        for statement in self._rules.revive:
            self._connection.execute(statement, keys)
        if not self._rules.streams:
            return
        there = {
            (stream, tenant)
            for stream, tenant, *_ in self._connection.execute(self._rules.guard, keys).fetchall()
        }
        new = [
            row
            for key, row in zip(streams, rows, strict=True)
            if key not in there and row is not None
        ]
        if len(new) + len(there) < len(streams):
            raise Refused(
                "a writer is using the row of a stream, or the archive has no row for it",
                hint="Try again later.",
            )
        if new:
            for name in self._rules.streams:
                own = WritableTable.of(self._connection, table_of(self._connection, name))
                self._connection.execute(insert_of_streams(name, own), {"row": new})
                self._check_streams(own, new)

    def _check_streams(self, table: WritableTable, rows: Sequence[str]) -> None:
        """Raises Refused where a stream's row was not written as it is in the archive."""
        of = table.table
        if not of.key:
            return
        different = [
            sql.SQL("CASE WHEN {} IS DISTINCT FROM {} THEN {} END").format(
                as_text(sql.Identifier("s", name), kind),
                as_text(sql.Identifier("p", name), kind),
                sql.Literal(name),
            )
            for name, kind in table.kinds.items()
        ]
        found = self._connection.execute(
            sql.SQL(_SQL["changed_streams"]).format(
                own=sql.Identifier(of.schema, of.name),
                different=sql.SQL(", ").join(different),
                same=sql.SQL(" AND ").join(
                    sql.SQL("s.{0} = p.{0}").format(sql.Identifier(name)) for name in of.key
                ),
            ),
            {"row": rows},
        ).fetchone()
        if found is not None:
            refuse_changed(self._connection, f"a stream's row in {of.name}", found[0], of)

    def advance_streams(self, streams: Sequence[StreamKey]) -> None:
        """Bring streams' own rows up to the events that came back."""
        for statement in self._rules.advance:
            self._connection.execute(statement, keys_of(streams))

    def taken(self, batch: pa.RecordBatch) -> list[TakenPosition]:
        """Events of the batch at whose positions the store has others: some of them."""
        found = self._connection.execute(
            sql.SQL(_SQL["taken"]).format(**self._parts), self._places(batch)
        )
        return [TakenPosition(*row) for row in found.fetchall()]

    def refuse_unwritten(self, batch: pa.RecordBatch) -> None:
        """Raises Refused for events of transactions that this server has not come to: nobody would
        read them before it has.
        """
        row = self._connection.execute(_SQL["oldest_transaction"]).fetchone()
        newest = pc.max(batch.column("position_1")).as_py()
        if row is not None and newest is not None and newest >= row[0]:
            raise Refused(
                f"events were written by transaction {newest}, and this server is at "
                f"{row[0]}: readers would not see them until it has come that far",
                hint="The server was restored or is another one. With --renumber, the events get "
                "new positions.",
            )

    def move_past(self, sequence: str, batch: pa.RecordBatch) -> None:
        """Move the sequence past the numbers of the batch, and never back: numbers are drawn, as
        writers do, or set, where the distance is so great that no writer can cover it.
        """
        highest = pc.max(batch.column(f"position_{len(self._rules.position)}")).as_py()
        if highest is None:
            return
        names = {"sequence": sql.SQL(sequence), "name": sql.Literal(sequence)}
        while True:
            row = self._connection.execute(sql.SQL(_SQL["drawn"]).format(**names)).fetchone()
            assert row is not None
            drawn, increment = row
            if drawn >= highest:
                return
            how = "draw" if highest - drawn <= _DRAWN_AT_MOST * increment else "set"
            count = -(-(highest - drawn) // increment)
            self._connection.execute(
                sql.SQL(_SQL[how]).format(**names), {"count": count, "highest": highest}
            )

    def _places(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Where the events of a batch are, as the statements take it."""
        parts = range(1, len(self._rules.position) + 1)
        return {
            "stream": batch.column("stream").to_pylist(),
            "version": batch.column("version").to_pylist(),
            "tenant": batch.column("tenant").to_pylist(),
            **{f"p{n}": list(map(str, batch.column(f"position_{n}").to_pylist())) for n in parts},
        }

    def insert(self, batch: pa.RecordBatch) -> int:
        """Insert the events that are not there; returns how many those were.

        Raises Refused where one of them cannot be inserted.
        """
        rows = values_of(batch, self._rules)
        if not rows:
            return 0
        put = self._insert(rows)
        lacking = self._connection.execute(
            sql.SQL(_SQL["lacking"]).format(**self._parts), self._places(batch)
        ).fetchone()
        if lacking is not None:
            stream, version = lacking
            triggers = names_of_triggers(self._connection, self._table.table)
            why = f", or a trigger keeps it out: {', '.join(triggers)}" if triggers else ""
            raise Refused(
                f"version {version} of stream {stream!r} cannot be inserted: the store has another "
                f"event with its id or its position{why}",
                hint=_HINT,
            )
        self._check(batch)
        return put

    def _check(self, batch: pa.RecordBatch) -> None:
        """Raises Refused where an event was not written as it is in the archive."""
        compared = self._comparison.rows(batch, whole=False)
        found = self._connection.execute(
            self._comparison.statement("differing", compared), compared.parameters
        ).fetchone()
        if found is not None:
            stream, _, version, columns = found
            what = f"version {version} of stream {stream!r}"
            refuse_changed(self._connection, what, columns, self._table.table)

    def _insert(self, rows: Sequence[Values]) -> int:
        names = self._table.written(list(rows[0]))
        insert = insert_of_event(self._events, self._table, names)
        put = 0
        with self._connection.cursor() as cursor:
            for at in range(0, len(rows), _ROWS_AT_ONCE):
                group = rows[at : at + _ROWS_AT_ONCE]
                cursor.executemany(insert, [parameters(row, self._table, names) for row in group])
                put += cursor.rowcount
        return put


def table_of(connection: psycopg.Connection, name: sql.Identifier) -> catalog.Table:
    """What the catalogue says of a table of the layout."""
    found = catalog.find_table(connection, *name._obj)  # noqa: SLF001 - psycopg gives no other way
    assert found is not None
    return found


def refuse_taken(taken: Sequence[TakenPosition]) -> None:
    """Raises Refused where there are any."""
    if taken:
        shown = "; ".join(map(str, taken[:3]))
        raise Refused(
            f"the store has other events at positions of archived ones: {shown}",
            hint=f"The store was restored to an earlier time, or is another one. {_HINT}",
        )


def _parts(
    rules: LayoutArchiving, events: sql.Identifier, table: catalog.Table
) -> dict[str, sql.Composable]:
    """What stands in the statements of restoring.sql for a layout."""
    kinds = {column.name: column.type for column in table.columns}

    def equal(column: str, parameter: str) -> sql.Composed:
        return sql.SQL("e.{} = k.{}::text::{}").format(
            sql.Identifier(column), sql.Identifier(parameter), type_name(kinds[column])
        )

    fields = [name for name in ("stream", "version", "tenant") if name in rules.columns]
    names = [f"p{number}" for number in range(1, len(rules.position) + 1)]
    at_place = map(equal, rules.position, names)
    return {
        "events": events,
        "stream": sql.Identifier(rules.columns["stream"]),
        "version": sql.Identifier(rules.columns["version"]),
        "arrays": sql.SQL(", ").join(sql.SQL(f"%({name})s::text[]") for name in names),
        "names": sql.SQL(", ").join(map(sql.Identifier, names)),
        "position": sql.SQL(" || ':' || ").join(map(sql.Identifier, ["k"] * len(names), names)),
        "at_place": sql.SQL(" AND ").join(at_place),
        "same_event": sql.SQL(" AND ").join(equal(rules.columns[name], name) for name in fields),
    }
