"""Columns that a projection's code does not write.

What stands in them is the table's own: when a row was inserted, a number, what a trigger fills in.
No event tells it, so it is neither compared nor written in a row that is there, and a row that is
inserted gets it from the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import psycopg
from psycopg import sql

from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.readmodel.shape import changing_defaults

_NEXT = "nextval("
_FILLED = (
    # BEFORE, for each row, on INSERT or UPDATE.
    "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = %s AND NOT tgisinternal "
    "AND tgenabled <> 'D' AND tgtype & 3 = 3 AND tgtype & 20 > 0)"
)

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
        live: Table,
        key: Sequence[str],
        types: Callable[[], Mapping[str, str]],
        *,
        of_fold: bool,
        known: bool,
    ) -> None:
        """`types` gives the columns that a fold has written, by now. `known`: it has them all, as
        the version's own; else only those that rows have shown which were made here.
        """
        self._types, self._of_fold, self._known = types, of_fold, known
        self._names = frozenset(each.name for each in live.columns) - {*key}
        defaults = catalog.defaults(connection, live.oid)
        generated = {name for name, (default, own) in defaults.items() if own and default}
        changing = changing_defaults(connection, live)
        self._changing = self._names.intersection(changing) - generated
        self._numbers = frozenset(
            each for each in self._changing if _NEXT in changing[each] or defaults[each][1]
        )
        row = connection.execute(_FILLED, (live.oid,)).fetchone()
        self._filled = bool(row and row[0])

    def columns(
        self,
        connection: psycopg.Connection,
        made: Table,
        where: sql.Composable | None = None,
        values: Sequence[object] = (),
    ) -> frozenset[str]:
        """The columns. `made` has the rows that the code has made, in a table without the defaults
        that change (`without_changing_defaults`); `where` says which of its rows `f` to look at.
        """
        own = self._names if self._known or self._filled else self._changing
        if self._of_fold:
            return own.difference(self._types())
        own = (self._names if self._filled else self._changing) - self._numbers
        return self._numbers | _empty(connection, made, sorted(own), where, values)


def _empty(
    connection: psycopg.Connection,
    made: Table,
    names: Sequence[str],
    where: sql.Composable | None,
    values: Sequence[object],
) -> frozenset[str]:
    """Those of some columns of a temporary table in which no row has a value."""
    if not names:
        return frozenset()
    statement = sql.SQL("SELECT {} FROM pg_temp.{} AS f{}").format(
        sql.SQL(", ").join(
            sql.SQL("coalesce(bool_or({} IS NOT NULL), false)").format(sql.Identifier("f", each))
            for each in names
        ),
        sql.Identifier(made.name),
        sql.SQL("") if where is None else sql.SQL(" WHERE {}").format(where),
    )
    row = connection.execute(statement, list(values)).fetchone()
    assert row is not None
    return frozenset(name for name, filled in zip(names, row, strict=True) if not filled)


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
