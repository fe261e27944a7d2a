"""Tables to try a projection in, which nobody else sees: they are temporary, so that they are gone
with the session, whatever ends it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from esops.errors import Busy, Refused, UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.held import wait_briefly
from esops.postgres.statements import statements
from esops.readmodel import registry
from esops.readmodel.after_load import noted_key
from esops.readmodel.foreign_keys import referred_to
from esops.readmodel.names import placeholders, shortened, with_names
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent, is_bad_row, one_line
from esops.rebuild.refolded import missing_right
from esops.rebuild.target import Target

_SQL = statements(__package__, "trial_tables")
_TABLES = ("r", "p")
_NEXT = "nextval("


@contextmanager
def trying(connection: psycopg.Connection, *, read_only: bool) -> Iterator[None]:
    """A transaction in which code is tried that may write to these tables alone: temporary ones can
    be written in a READ ONLY transaction, and no others.

    Raises BadEvent where the code does more, or the tables do not accept its rows.
    """
    try:
        with connection.transaction():
            if read_only:
                connection.execute("SET TRANSACTION READ ONLY")
            yield
    except psycopg.errors.ReadOnlySqlTransaction as error:
        raise BadEvent(
            "it writes to something else than the projection's tables, which is not let through "
            f"here: {one_line(error)}"
        ) from None
    except psycopg.Error as error:
        if not is_bad_row(error):
            raise
        raise BadEvent(f"the tables do not accept its rows: {one_line(error)}") from error


class ReadModel:
    """The tables that a projection's rows would be in, as they are now."""

    def __init__(self, connection: psycopg.Connection, target: Target) -> None:
        """Look them up: those of the version that serves, or else of the newest one that is there,
        or else those that the application has. None may be there yet.
        """
        found = registry.versions(connection, target.name)
        there = [each for each in found if each.state not in {"retired", "aborted"}]
        active = next((each for each in there if each.state == "active"), None)
        self.version: Version | None = active or next(reversed(there), None)
        self.serving = active
        by_name: dict[str, Table | None] = {}
        for name in target.names:
            physical = (name.schema, name.name)
            if self.version is not None:
                physical = self.version.tables.get(name.name, physical)
            by_name[name.name] = catalog.find_table(connection, *physical)
        self.by_name: Mapping[str, Table] = {
            name: table
            for name, table in by_name.items()
            if table is not None and table.kind in _TABLES
        }
        self.whole = len(self.by_name) == len(target.names)
        """Whether all of them are there."""

    def key(self, name: str) -> tuple[str, ...]:
        """The columns of a table's key, also where the key itself is not built yet."""
        table = self.by_name[name]
        return table.key or (noted_key(self.version, table.name) if self.version else ())


def make(
    connection: psycopg.Connection, target: Target, model: ReadModel, what: str
) -> dict[str, Table]:
    """Temporary tables as the projection's next version would have them: by its `ddl`, or else like
    those that are there; by the names that the application reads.

    They are empty, with the same columns, defaults, checks and unique keys; sequences are their
    own. Raises Refused where this role may not make them, and UsageError where there is nothing to
    make them like.
    """
    right = missing_right(connection)
    if right is not None:
        raise Refused(f"this role {right[0]}", hint=right[1])
    named = {each.name: physical(each.name, what) for each in target.names}
    ddl = target.settings.ddl
    if ddl is None and not model.whole:
        raise UsageError(
            f"there is no table {target.names[0]} yet, and no ddl that makes it",
            hint=f'Give its DDL: ddl = "sql/….sql" with {placeholders(target.names)[0]}.',
        )
    if ddl is not None:
        try:
            _by_ddl(connection, named, target.directory / ddl, target.name)
        except UsageError:
            # It may need what temporary tables cannot have, such as foreign keys.
            if not model.whole:
                raise
            ddl = None
    if ddl is None:
        for name, table in model.by_name.items():
            _like(connection, table, named[name], model.key(name))
    row = connection.execute(_SQL["temporary_schema"]).fetchone()
    assert row is not None
    made = {name: catalog.find_table(connection, row[0], named[name]) for name in named}
    if missing := [name for name, table in made.items() if table is None]:
        raise UsageError(f"the ddl of {target.name} does not make {missing[0]}")
    return {name: table for name, table in made.items() if table is not None}


def physical(name: str, what: str) -> str:
    """The name of the temporary table for one that the application reads."""
    return shortened(f"esops_{what}_{name}", "")


def numbered(connection: psycopg.Connection, table: Table) -> list[str]:
    """The columns whose values the table draws from a sequence by itself."""
    return [
        column
        for column, (default, own) in catalog.defaults(connection, table.oid).items()
        if (default is None and own) or (default is not None and _NEXT in default)
    ]


def _like(connection: psycopg.Connection, table: Table, name: str, key: tuple[str, ...]) -> None:
    temporary = sql.Identifier("pg_temp", name)
    connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING ALL EXCLUDING STATISTICS "
            "EXCLUDING COMMENTS)"
        ).format(sql.Identifier(name), qualified(table.schema, table.name))
    )
    if key and not table.key:
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(
                temporary, sql.SQL(", ").join(map(sql.Identifier, key))
            )
        )
    # A number that is drawn from the sequence of a table that serves would be missing there.
    drawn = [
        column
        for column, (default, own) in catalog.defaults(connection, table.oid).items()
        if default is not None and not own and _NEXT in default
    ]
    for number, column in enumerate(drawn):
        sequence = shortened(f"{name}_n{number}", "")
        connection.execute(
            sql.SQL("CREATE TEMPORARY SEQUENCE {} OWNED BY {}").format(
                sql.Identifier(sequence), sql.Identifier("pg_temp", name, column)
            )
        )
        connection.execute(
            sql.SQL("ALTER TABLE {} ALTER COLUMN {} SET DEFAULT nextval({}::regclass)").format(
                temporary,
                sql.Identifier(column),
                sql.Literal(sql.Identifier("pg_temp", sequence).as_string(None)),
            )
        )


def _by_ddl(
    connection: psycopg.Connection, named: Mapping[str, str], ddl: Path, projection: str
) -> None:
    """Run the user's DDL for temporary tables; what it makes beside these would stay, and is
    refused with UsageError.
    """
    try:
        text = ddl.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the DDL {ddl} cannot be read: {error.strerror}") from None
    tables = {name: ("pg_temp", table) for name, table in named.items()}
    try:
        with connection.transaction():
            # A foreign key locks the table that it refers to, before it is refused here.
            wait_briefly(connection)
            connection.execute(with_names(text, tables).encode())
            lasting = connection.execute(_SQL["lasting"]).fetchall()
            if lasting:
                raise UsageError(
                    f"the DDL {ddl} makes more than the tables: "
                    + ", ".join(row[0] for row in lasting[:5]),
                    hint="Build the projection first, so that its tables are there: esops rebuild "
                    f"{projection} --blue-green --no-switch",
                )
    except psycopg.errors.LockNotAvailable:
        referred = referred_to(connection, [text])
        if not referred:
            raise Busy(
                f"a session holds a lock on a table that the DDL {ddl} needs",
                hint="Run this again when it has ended: pg_blocking_pids() names it.",
            ) from None
        raise UsageError(
            f"the DDL {ddl} fails for temporary tables: it has a foreign key to {referred[0]}",
            hint="Build the projection first, so that its tables are there: esops rebuild "
            f"{projection} --blue-green --no-switch",
        ) from None
    except psycopg.Error as error:
        raise UsageError(
            f"the DDL {ddl} fails for temporary tables: {one_line(error)}",
            hint="Build the projection first, so that its tables are there: esops rebuild "
            f"{projection} --blue-green --no-switch",
        ) from None
