"""Archived streams back into a layout's tables: their rows made, their events inserted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from esops.archive_format import schema as archived
from esops.errors import Refused
from esops.events import StreamKey
from esops.moments import from_archive, postgres_text
from esops.postgres import catalog
from esops.postgres.values import type_name
from esops.stores.postgres.layouts.archiving import LayoutArchiving
from esops.stores.postgres.removing import keys_of

_ROWS_AT_ONCE = 1_000


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
        self._events, self._table = events, table

    def make_streams(self, streams: Sequence[StreamKey], rows: Sequence[str | None]) -> None:
        """Make streams that are archived take events again, and make the rows of those that are
        not there.
        """
        keys = keys_of(streams)
        for statement in self._rules.revive:
            self._connection.execute(statement, keys)
        if self._rules.adopt is None:
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
            self._connection.execute(self._rules.adopt, {"row": new})

    def insert(self, batch: pa.RecordBatch) -> int:
        """Insert the events that are not there; returns how many those were."""
        rows = _values(batch, self._rules)
        if not rows:
            return 0
        kinds = {column.name: column.type for column in self._table.columns}
        names = [name for name in rows[0] if name in kinds]
        if lost := [name for name in rows[0] if name not in kinds]:
            raise Refused(
                f"the archive has a column {lost[0]!r}, and table {self._table.name} does not"
            )
        insert = sql.SQL("INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING").format(
            self._events,
            sql.SQL(", ").join(map(sql.Identifier, names)),
            sql.SQL(", ").join(_placeholder(kinds[name]) for name in names),
        )
        put = 0
        with self._connection.cursor() as cursor:
            for at in range(0, len(rows), _ROWS_AT_ONCE):
                group = rows[at : at + _ROWS_AT_ONCE]
                cursor.executemany(
                    insert,
                    [[_parameter(row[name], kinds[name]) for name in names] for row in group],
                )
                put += cursor.rowcount
        return put


def _placeholder(kind: str) -> sql.Composable:
    return sql.SQL("%s") if kind == "bytea" else sql.SQL("%s::text::{}").format(type_name(kind))


def _parameter(value: Any, kind: str) -> Any:
    if isinstance(value, bytes) and kind != "bytea":
        return value.decode()
    return value


def _values(batch: pa.RecordBatch, rules: LayoutArchiving) -> list[dict[str, Any]]:
    """Each event of a batch as the values of its columns, as text or bytes."""
    columns: dict[str, list[Any]] = {}
    for field, column in rules.columns.items():
        if field == "id":
            columns[column] = archived.join_ids(batch)
        elif field == "recorded_at":
            columns[column] = [
                None if time is None else postgres_text(from_archive(time))
                for time in batch.column("recorded_at").cast(pa.int64()).to_pylist()
            ]
        else:
            columns[column] = [
                str(value) if isinstance(value, int) else value
                for value in batch.column(field).to_pylist()
            ]
    for number, column in enumerate(rules.position, 1):
        columns[column] = [str(value) for value in batch.column(f"position_{number}").to_pylist()]
    for name in archived.extra_columns_in(batch.schema):
        columns[name] = batch.column(f"{archived.EXTRA_PREFIX}{name}").to_pylist()
    rows = [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]
    for row in rows:
        rules.fill(row)
    return rows
