"""What is known to keep streams from leaving their tables, found by looking: nothing is locked or
written, however long the streams are.

A trigger, or a check that refuses, is seen only by who tries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import errors, sql

from esops.events import StreamKey
from esops.postgres.statements import statements
from esops.stores.archiving import VersionRange
from esops.stores.postgres import refusals
from esops.stores.postgres.comparing import array_of
from esops.stores.postgres.layouts.archiving import RANGES, STREAMS, LayoutArchiving, SqlRemoval

_SQL = statements(__package__, "obstacles")


@dataclass(frozen=True)
class Obstacles:
    """Looks for what refuses a removal over one connection, each statement in a transaction."""

    connection: psycopg.Connection
    rules: LayoutArchiving
    removal: SqlRemoval
    events: sql.Identifier

    def of(self, parts: Sequence[VersionRange]) -> dict[StreamKey, str]:
        """By stream, why it could not leave, for an operator; nothing of those that could."""
        found = dict.fromkeys(used_twice(self.connection, self.rules, parts), refusals.USED_AGAIN)
        ranges = [(part.key, part.low, part.high) for part in parts]
        changed = None if self.removal.deletes else self.removal.marks
        self._look(self.events, ranges, changed, found)
        if self.removal.end and self.removal.reuse != "continues":
            ending = [(p.key, p.low, p.high) for p in parts if p.ends and not p.head]
            for table in self.rules.streams:
                self._look(table, ending, self.removal.marks, found)
        return found

    def _look(
        self,
        table: sql.Identifier,
        ranges: Sequence[tuple[StreamKey, int, int]],
        changed: Sequence[str] | None,
        found: dict[StreamKey, str],
    ) -> None:
        own = [each.as_string(None) for each in (self.events, *self.rules.streams)]
        asked = {
            "table": table.as_string(None),
            "own": own,
            "changed": None if changed is None else list(changed),
        }
        keys = self.connection.execute(_SQL["foreign_keys"], asked).fetchall() if ranges else []
        for name, schema, referring, target, columns, referred in keys:
            root = self._target(target, table)
            statement = sql.SQL(_SQL["of_events" if table == self.events else "of_rows"]).format(
                **self._parts(columns, referred, table),
                referring=sql.Identifier(schema, referring),
            )
            if root is not None:  # a key to one partition alone
                statement += root
            for stream, tenant, *values in self._rows(statement, ranges):
                detail = f"({', '.join(referred)})=({', '.join(map(str, values))})"
                found.setdefault(
                    StreamKey(stream, tenant),
                    f"rows of {schema}.{referring} refer to it (foreign key {name}, Key {detail})",
                )

    def _target(self, target: int, table: sql.Identifier) -> sql.Composable | None:
        row = self.connection.execute(
            "SELECT to_regclass(%s)::oid <> %s", (table.as_string(None), target)
        ).fetchone()
        if row is None or not row[0]:
            return None
        return sql.SQL(
            " WHERE e.tableoid IN (SELECT relid FROM pg_partition_tree({}::oid::regclass))"
        ).format(sql.Literal(target))

    def _rows(
        self, statement: sql.Composed, ranges: Sequence[tuple[StreamKey, int, int]]
    ) -> list[Any]:
        keys = [key for key, _, _ in ranges]
        asked = {
            "stream": array_of([key.stream for key in keys]),
            "tenant": array_of([key.tenant for key in keys]),
            "low": [low for _, low, _ in ranges],
            "high": [high for _, _, high in ranges],
        }
        try:
            with self.connection.transaction():
                return self.connection.execute(statement, asked).fetchall()
        except errors.InsufficientPrivilege:
            return []  # only the server itself may look there

    def _parts(
        self, columns: Sequence[str], referred: Sequence[str], table: sql.Identifier
    ) -> dict[str, sql.Composable]:
        pairs = zip(columns, referred, strict=True)
        return {
            "shown": sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier("e", each)) for each in referred
            ),
            "same": sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("r", one), sql.Identifier("e", other))
                for one, other in pairs
            ),
            "ranges": RANGES,
            "streams": STREAMS,
            "events": self.events,
            "own": table,
            "of_stream": self.rules.of_stream,
            "of_row": self.rules.of_row or sql.SQL("FALSE"),
            "version": sql.Identifier("e", self.rules.columns["version"]),
        }


def used_twice(
    connection: psycopg.Connection, rules: LayoutArchiving, parts: Sequence[VersionRange]
) -> list[StreamKey]:
    """The streams that would go whole while an archived one has their name: the tables have no room
    for a second, and where the row stays, the two could not be told apart any more.
    """
    keys = [part.key for part in parts if not part.head]
    if rules.twice is None or not keys:
        return []
    asked = {
        "stream": array_of([key.stream for key in keys]),
        "tenant": array_of([key.tenant for key in keys]),
    }
    return [StreamKey(*row) for row in connection.execute(rules.twice, asked).fetchall()]
