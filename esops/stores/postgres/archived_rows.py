"""What an archive has of events and streams, as the rows of a layout's tables: the values of each
column, and the statements that insert them.

A generated column is computed by the server, from columns that are in the archive. An identity
column takes the number that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

from esops.archive_format import schema as archived
from esops.errors import Refused
from esops.moments import from_archive, postgres_text
from esops.postgres import catalog
from esops.postgres.values import type_name
from esops.stores.postgres.layouts.archiving import LayoutArchiving

Values = dict[str, Any]
"""The values of an event's columns, each as text or bytes, or None."""


@dataclass(frozen=True)
class WritableTable:
    """A table, and the columns of it that can be written: their types by name."""

    table: catalog.Table
    kinds: Mapping[str, str]
    generated: frozenset[str]

    @classmethod
    def of(cls, connection: psycopg.Connection, table: catalog.Table) -> WritableTable:
        """What the catalogue says."""
        own = catalog.defaults(connection, table.oid)
        generated = frozenset(
            name for name, (expression, itself) in own.items() if itself and expression is not None
        )
        kinds = {each.name: each.type for each in table.columns if each.name not in generated}
        return cls(table, kinds, generated)

    def written(self, columns: Sequence[str]) -> list[str]:
        """Which of an archive's columns are written. Raises Refused where one is not there."""
        lost = [name for name in columns if name not in {*self.kinds, *self.generated}]
        if lost:
            raise Refused(
                f"the archive has a column {lost[0]!r}, and table {self.table.name} does not"
            )
        return [name for name in columns if name in self.kinds]


def insert_of_event(
    into: sql.Composable, table: WritableTable, names: Sequence[str]
) -> sql.Composed:
    """Inserts a row with values of these columns, where nothing is in its way."""
    return sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) ON CONFLICT DO NOTHING"
    ).format(into, _names(names), sql.SQL(", ").join(_placeholder(table.kinds[n]) for n in names))


def insert_of_streams(into: sql.Composable, table: WritableTable) -> sql.Composed:
    """Inserts streams' own rows, given as JSON in `row`. No jsonb between: it would bring order
    into a column of type json, and make 0 of -0.
    """
    names = list(table.kinds)
    return sql.SQL(
        "INSERT INTO {into} ({names}) OVERRIDING SYSTEM VALUE SELECT {theirs} "
        "FROM unnest(%(row)s::text[]) AS r (text) "
        "CROSS JOIN LATERAL json_populate_record(NULL::{own}, r.text::json) AS p"
    ).format(
        into=into,
        own=sql.Identifier(table.table.schema, table.table.name),
        names=_names(names),
        theirs=sql.SQL(", ").join(sql.Identifier("p", name) for name in names),
    )


def parameters(row: Values, table: WritableTable, names: Sequence[str]) -> list[Any]:
    """A row's values as `insert_of_event` takes them."""
    return [parameter(row[name], table.kinds[name]) for name in names]


def parameter(value: Any, kind: str) -> Any:
    """A value as a column of this type takes it."""
    if isinstance(value, bytes) and kind != "bytea":
        return value.decode()
    return value


def _names(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _placeholder(kind: str) -> sql.Composable:
    return sql.SQL("%s") if kind == "bytea" else sql.SQL("%s::text::{}").format(type_name(kind))


def values_of(batch: pa.RecordBatch, rules: LayoutArchiving) -> list[Values]:
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
