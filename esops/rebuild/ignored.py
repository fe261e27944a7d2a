"""What `verify.ignore` names in a table that the application writes is the application's: when a
row was written, by whom, whether it was deleted. No fold can know it, so it stays as it is in the
row that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.readmodel.registry import Version
from esops.rebuild.verification.bookkeeping import bookkeeping_of
from esops.rebuild.verification.paths import Item, Key, Steps, written
from esops.rebuild.verification.sides import paths_by_column
from esops.settings import VerifySettings

_NOW = "SELECT (pg_snapshot_xmin(pg_current_snapshot())::text::numeric % 4294967296)::text"
"""Rows of a transaction that is not over, or of a later one, bear this number or one after it."""


def kept(column: str, type_: str, paths: Sequence[Steps], rows: tuple[str, str]) -> sql.Composed:
    """A JSON column's value in a new row, with what is at some paths in the old one. `rows` are the
    aliases of both: the old and the new one. A path into each of several values is left aside.
    """
    old = sql.SQL("{}::jsonb").format(sql.Identifier(rows[0], column))
    value = sql.SQL("{}::jsonb").format(sql.Identifier(rows[1], column))
    for steps in paths:
        if not _is_one(steps):
            continue
        path = sql.Literal(
            [
                str(each.name if isinstance(each, Key) else each.at)
                for each in steps
                if not isinstance(each, str)
            ]
        )
        value = sql.SQL(
            "CASE WHEN {0} #> {2}::text[] IS NULL THEN {1} "
            "ELSE jsonb_set({1}, {2}::text[], {0} #> {2}::text[]) END"
        ).format(old, value, path)
    return sql.SQL("({})::{}").format(value, sql.SQL(type_))


def ignored_in(blue: Table, green: Table, verify: VerifySettings) -> dict[str, list[Steps]]:
    """What is not compared in two tables, by column; the empty path is the whole column."""
    return paths_by_column((*verify.ignore, *bookkeeping_of(blue, green)), green)


def not_kept(blue: Table, green: Table, verify: VerifySettings) -> list[str]:
    """The entries of `verify.ignore` that are many values of a row, which cannot be told apart."""
    return [
        written(column, steps)
        for column, paths in ignored_in(blue, green, verify).items()
        for steps in paths
        if steps and not _is_one(steps)
    ]


class IgnoredValues:
    """Brings what is ignored from the tables that serve into those of another version, as often as
    it is asked; after the first time only that of rows that somebody has changed since.
    """

    def __init__(self, source: Version, target: Version, verify: VerifySettings) -> None:
        """`verify` says what is ignored."""
        self._source, self._target, self._verify = source, target, verify
        self._since: str | None = None

    def bring(self, connection: psycopg.Connection) -> int:
        """Write the values, in a transaction of its own; returns how many rows had others."""
        with connection.transaction():
            row = connection.execute(_NOW).fetchone()
            assert row is not None
            changed = self.apply(connection)
        self._since = row[0]
        return changed

    def apply(self, connection: psycopg.Connection) -> int:
        """The same in the transaction that the connection is in, which may be rolled back."""
        statements = list(self._statements(connection))
        by_key = self._since is not None
        if by_key:
            # The server takes a third of all rows for recent, and would join both tables whole.
            connection.execute("SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
        changed = sum(
            connection.execute(statement, parameters).rowcount
            for statement, parameters in statements
        )
        if by_key:
            connection.execute("RESET enable_hashjoin; RESET enable_mergejoin")
        return changed

    def _statements(
        self, connection: psycopg.Connection
    ) -> Iterator[tuple[sql.Composed, Mapping[str, str | None]]]:
        for name, physical in self._source.tables.items():
            if name not in self._target.tables:
                continue
            blue = catalog.find_table(connection, *physical)
            green = catalog.find_table(connection, *self._target.tables[name])
            if blue is None or green is None or not green.key or not blue.has(*green.key):
                continue
            values = _values(connection, blue, green, self._verify)
            if values:
                yield _update(blue, green, values, self._since), {"since": self._since}


def _values(
    connection: psycopg.Connection, blue: Table, green: Table, verify: VerifySettings
) -> dict[str, sql.Composable]:
    """What columns of green are to hold, in the aliases b and g of both."""
    computed = {
        name
        for name, (_, by_itself) in catalog.defaults(connection, green.oid).items()
        if by_itself
    }
    found: dict[str, sql.Composable] = {}
    for name, paths in ignored_in(blue, green, verify).items():
        if not blue.has(name) or name in green.key or name in computed:
            continue
        if blue.column(name).type != green.column(name).type:
            continue
        if () in paths:
            found[name] = sql.Identifier("b", name)
        elif any(map(_is_one, paths)):
            found[name] = kept(name, green.column(name).type, paths, ("b", "g"))
    return found


def _update(
    blue: Table, green: Table, values: Mapping[str, sql.Composable], since: str | None
) -> sql.Composed:
    tables = [qualified(each.schema, each.name) for each in (blue, green)]
    keys = sql.SQL(", ").join(map(sql.Identifier, green.key))
    recent: sql.Composable = sql.SQL("")
    if since is not None:
        # By age, since the numbers of transactions begin again after some billions.
        recent = sql.SQL(
            "WITH recent AS MATERIALIZED (SELECT {0} FROM {1} AS t WHERE age(t.xmin) <= "
            "age(%(since)s::xid) UNION SELECT {0} FROM {2} AS t WHERE age(t.xmin) <= "
            "age(%(since)s::xid)) "
        ).format(keys, *tables)
    return sql.SQL("{}UPDATE {} AS g SET {} FROM {} AS b{} WHERE {} AND ({})").format(
        recent,
        tables[1],
        sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in values.items()
        ),
        tables[0],
        sql.SQL("" if since is None else " JOIN recent AS r USING ({})").format(keys),
        sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("b", name), sql.Identifier("g", name))
            for name in green.key
        ),
        # As text, since some types have no equality.
        sql.SQL(" OR ").join(
            sql.SQL("({})::text IS DISTINCT FROM {}::text").format(value, sql.Identifier("g", name))
            for name, value in values.items()
        ),
    )


def _is_one(steps: Steps) -> bool:
    """Whether a path leads to one value at most."""
    return bool(steps) and all(isinstance(step, Key | Item) for step in steps)
