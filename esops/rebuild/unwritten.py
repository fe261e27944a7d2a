"""Columns that a projection's code does not write.

What stands in them is the table's own, or the application's: when a row was inserted, a number,
what a trigger fills in, a note. No event tells it, so it is neither compared nor written in a row
that is there, and a row that is inserted gets it from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.readmodel.shape import changing_defaults

_NEXT = "nextval("
_NEVER_NULL = (
    "SELECT a.attname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE a.attrelid = %s AND t.typnotnull"
)
"""Columns of a domain that takes no NULL."""


class Unwritten:
    """Tells which columns of a version's table its code does not write, as far as it has shown."""

    def __init__(
        self,
        connection: psycopg.Connection,
        tables: tuple[Table, Table],
        key: Sequence[str],
        types: Callable[[], Mapping[str, str]] | None,
    ) -> None:
        """`tables` are the version's and the temporary one with the rows that the code has made,
        without the defaults that change (`without_changing_defaults`). `types` gives the columns
        that a fold has written, by now; None: it is no fold, and nobody notes them.
        """
        live, self._whole = tables
        self._types = types
        self._names = frozenset(each.name for each in live.columns) - {*key}
        defaults, changing = (
            catalog.defaults(connection, live.oid),
            changing_defaults(connection, live),
        )
        self._numbers = self._names & {
            name
            for name, default in changing.items()
            if _NEXT in default or defaults[name] == (None, True)
        }
        self._generated = {name for name, (default, own) in defaults.items() if own and default}
        self._defaults = {
            name: default
            for name, (default, own) in defaults.items()
            if default and not own and name not in changing
        }
        self._written: set[str] | None = None

    def columns(
        self,
        connection: psycopg.Connection,
        made: Table,
        where: sql.Composable | None = None,
        values: Sequence[object] = (),
    ) -> frozenset[str]:
        """The columns. `made` and `where` say which rows `f` that the code has made are new."""
        if self._types is not None:
            return self._names.difference(self._types())
        asked = self._names - self._numbers - self._generated
        if self._written is None:
            self._written = self._filled(connection, self._whole, sorted(asked), None, ())
        asked -= self._written
        self._written |= self._filled(connection, made, sorted(asked), where, values)
        return self._numbers | (asked - self._written)

    def _filled(
        self,
        connection: psycopg.Connection,
        made: Table,
        names: Sequence[str],
        where: sql.Composable | None,
        values: Sequence[object],
    ) -> set[str]:
        """Those of some columns in which a row has another value than a row has by itself."""
        if not names:
            return set()
        # As text, since some types have no equality.
        statement = sql.SQL("SELECT {} FROM pg_temp.{} AS f{}").format(
            sql.SQL(", ").join(
                sql.SQL("coalesce(bool_or({}::text IS DISTINCT FROM ({})::text), false)").format(
                    sql.Identifier("f", each), self._default(made, each)
                )
                for each in names
            ),
            sql.Identifier(made.name),
            sql.SQL("") if where is None else sql.SQL(" WHERE {}").format(where),
        )
        row = connection.execute(statement, list(values)).fetchone()
        assert row is not None
        return {name for name, filled in zip(names, row, strict=True) if filled}

    def _default(self, table: Table, name: str) -> sql.Composable:
        return sql.SQL("({})::{}").format(
            sql.SQL(self._defaults.get(name, "NULL").replace("%", "%%")),
            sql.SQL(table.column(name).type),
        )


def without_changing_defaults(
    connection: psycopg.Connection, made: Table, key: Sequence[str], *, of_fold: bool
) -> None:
    """Take from a temporary table the defaults that are not the same for all rows: what the code
    does not write is NULL there. What others than folds may refer to, numbers of a sequence, come
    from one of the table's own: the version's is not to advance.
    """
    actions: list[sql.Composable] = []
    by_itself, changing = (
        catalog.defaults(connection, made.oid),
        changing_defaults(connection, made),
    )
    never_null = {row[0] for row in connection.execute(_NEVER_NULL, (made.oid,))}
    for number, (name, (default, own)) in enumerate(by_itself.items()):
        if own or default is None or name not in changing:
            continue
        column = sql.Identifier(name)
        if _NEXT in default and not of_fold:
            sequence = sql.Identifier(f"{made.name}_{number}")
            connection.execute(
                sql.SQL("CREATE TEMPORARY SEQUENCE {} OWNED BY pg_temp.{}.{}").format(
                    sequence, sql.Identifier(made.name), column
                )
            )
            text = sql.Literal(f"pg_temp.{sequence.as_string(connection)}")
            actions.append(
                sql.SQL("ALTER {} SET DEFAULT nextval({}::regclass)").format(column, text)
            )
        elif name not in key and name not in never_null:
            # Not DROP, which would leave that of a domain.
            actions.append(sql.SQL("ALTER {} SET DEFAULT NULL").format(column))
            actions.append(sql.SQL("ALTER {} DROP NOT NULL").format(column))
    if actions:
        connection.execute(
            sql.SQL("ALTER TABLE pg_temp.{} {}").format(
                sql.Identifier(made.name), sql.SQL(", ").join(actions)
            )
        )
