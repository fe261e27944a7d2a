"""Whether a described table can be what its description says: one event for each version of a
stream, and no part missing that every event needs.

What a unique index proves is not looked for. Else some events are looked at, within two seconds,
and what is said names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from esops.errors import Refused
from esops.escaping import visible
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.settings import TableSettings
from esops.stores.parts import Concern
from esops.stores.postgres.layouts.unique import proves, remedy, unique_indexes

_SQL = statements(__package__, "custom")
_MOST = 20_000
"""Events that are looked at from each end."""
_PATIENCE = "2s"
_C = sql.Identifier


def enums(
    connection: psycopg.Connection, table: catalog.Table, columns: Sequence[str]
) -> list[str | None]:
    """For each column the quoted name of its type, where that is an enum."""
    found: dict[str, str] = dict(
        connection.execute(_SQL["enums"], (table.oid, list(columns))).fetchall()
    )
    return [found.get(column) for column in columns]


class Checks:
    """The questions about one described table."""

    def __init__(self, table: catalog.Table, asked: TableSettings, name: sql.Composable) -> None:
        """`name` gives the name of an event's stream."""
        self._table, self._asked, self._name = table, asked, name
        self._key = (*asked.streams, asked.version)
        self._parts = {
            "events": _C(table.schema, table.name),
            "name": name,
            "version": _C(asked.version),
            "number": _C(asked.position),
            "most": sql.Literal(_MOST),
        }

    def warnings(self, connection: psycopg.Connection) -> list[str]:
        """What makes reading wrong: parts that are missing; and ids that two events share, where
        ids are made of stream and version.
        """
        found = [each.message for each in self._without(connection)]
        if self._asked.id is None:
            found += [each.message for each in self._doubled(connection) if each.kind == "doubled"]
        return found

    def concerns(self, connection: psycopg.Connection) -> list[Concern]:
        """The same, and what nothing keeps from happening."""
        found = [*self._without(connection), *self._doubled(connection)]
        if self._asked.position_by == "max_plus_one":
            found += self._missing(connection)
        return found

    def refuse_doubled(self, connection: psycopg.Connection, any_stream: sql.Composable) -> None:
        """Raises Refused where a stream has a version twice; the condition says which are asked
        for. All their events are looked at, unless an index proves it.
        """
        if self._proven(connection):
            return
        query = sql.SQL(_SQL["doubled_among"]).format(**self._parts, any_stream=any_stream)
        row = connection.execute(query).fetchone()
        if row is not None:
            raise Refused(
                f"stream {visible(str(row[0]))} has version {row[1]} more than once, so nothing "
                "tells these events apart",
                hint=self._remedy(connection),
            )

    def _proven(self, connection: psycopg.Connection) -> bool:
        return any(proves(each, self._key) for each in unique_indexes(connection, self._table))

    def _remedy(self, connection: psycopg.Connection) -> str:
        """Name the columns of a unique index that has more of them, or make an index."""
        for each in unique_indexes(connection, self._table):
            more = set(each.columns) - set(self._key)
            if (
                each.weakness is None
                and set(self._key) < set(each.columns)
                and self._may_name(more)
            ):
                columns = ", ".join(f'"{name}"' for name in each.columns if name != self._key[-1])
                return (
                    f"The unique index {each.name} has more columns. If they name a stream "
                    f"together, set stream = [{columns}] under [stores.NAME.table]."
                )
        return (
            "If several columns name a stream together, set `stream` to a list of them under "
            "[stores.NAME.table]. Else give these events versions of their own."
        )

    def _may_name(self, columns: set[str]) -> bool:
        """Whether a stream may be named by columns: not by what differs between its events."""
        asked = self._asked
        own = {asked.position, asked.type, asked.data, asked.metadata, asked.time, asked.id}
        of_events = {asked.correlation, asked.causation}
        kinds = {self._table.column(each).kind for each in columns}
        return not columns & (own | of_events) and not kinds & {"timestamptz", "timestamp", "date"}

    def _doubled(self, connection: psycopg.Connection) -> list[Concern]:
        if self._proven(connection):
            return []
        query = sql.SQL(_SQL["doubled"]).format(**self._parts)
        row = _quickly(connection, query)
        if row is not None and row[1] is not None:
            _, name, version, _, numbers = row
            first, second = numbers
            same = ", and esops makes one id for both" if self._asked.id is None else ""
            return [
                Concern(
                    "doubled",
                    f"stream {visible(str(name))} has version {version} more than once, at "
                    f"positions {first} and {second}{same}",
                    self._remedy(connection),
                )
            ]
        columns = sql.SQL(", ").join(map(_C, self._key)).as_string(connection)
        weak = [
            f" ({each.name} {each.weakness})"
            for each in unique_indexes(connection, self._table)
            if each.weakness is not None and set(each.columns) <= set(self._key)
        ]
        looked = _looked(row, f"has the same {columns} twice")
        found = remedy(connection, self._table, self._key)
        if found.impossible is not None:
            return [
                Concern(
                    "never unique",
                    f"no unique index can keep the versions of a stream apart: {found.impossible}; "
                    f"{looked}",
                    f"Only {columns} together with the columns of the partitions can be kept "
                    "apart. If your writers keep versions apart in another way, nothing has to be "
                    "done.",
                )
            ]
        return [
            Concern(
                "not unique",
                f"no unique index keeps the versions of a stream apart{''.join(weak[:1])}; "
                f"{looked}",
                found.statements or found.words,
            )
        ]

    def _without(self, connection: psycopg.Connection) -> list[Concern]:
        wanted = [*self._key, self._asked.type, self._asked.position]
        nullable = connection.execute(_SQL["nullable"], (self._table.oid, wanted)).fetchall()
        columns = [sql.Identifier(column) for (column,) in nullable]
        if not columns:
            return []
        query = sql.SQL(_SQL["without"]).format(
            **self._parts,
            columns=sql.SQL(", ").join(columns),
            counts=sql.SQL(", ").join(
                sql.SQL("count(*) FILTER (WHERE {} IS NULL)").format(each) for each in columns
            ),
        )
        counts = _quickly(connection, query) or ()
        return [
            Concern(
                "incomplete",
                f"some events have no {column}, so esops cannot tell what they are",
                f"Give them a value; then ALTER TABLE {self._table.schema}.{self._table.name} "
                f"ALTER COLUMN {column} SET NOT NULL.",
            )
            for (column,), count in zip(nullable, counts, strict=False)
            if count
        ]

    def _missing(self, connection: psycopg.Connection) -> list[Concern]:
        row = _quickly(connection, sql.SQL(_SQL["missing"]).format(**self._parts))
        if not row or not row[1]:
            return []
        looked, places, first, last = row
        newest = f"{first}" if first == last else f"{first} to {last}"
        return [
            Concern(
                "missing numbers",
                f"among the newest {looked:,} events numbers are missing in {places:,} places, the "
                f"newest of them {newest}: whoever takes the highest number and one leaves none "
                "out",
                "If these events were deleted, nothing has to be done. Else some writer takes its "
                'numbers in another way, and position_by = "max_plus_one" is wrong.',
            )
        ]


def _looked(row: tuple[Any, ...] | None, what: str) -> str:
    if row is None:
        return "looking for two with the same took longer than two seconds"
    if row[0] < _MOST:
        return f"none of all {row[0]:,} events {what}"
    return f"none of the {row[0]:,} oldest and newest events {what}"


def _quickly(connection: psycopg.Connection, query: sql.Composed) -> tuple[Any, ...] | None:
    """The first row, empty where there is none; None where the answer takes too long."""
    try:
        with connection.transaction():
            connection.execute(
                sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(_PATIENCE))
            )
            return connection.execute(query).fetchone() or ()
    except errors.QueryCanceled:
        return None
