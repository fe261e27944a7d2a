"""A read model's tables in Postgres: how those of a version are made, what they get from the ones
that serve, and how they are dropped.

Green is made like the table that serves now, or by the user's DDL. Its keys and indexes are taken
off again for the load (after_load.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from esops.errors import Refused, UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.grants import change_statements, rights
from esops.postgres.statements import statements
from esops.readmodel.dependants import drop_replaced
from esops.readmodel.names import ReadModelName, placeholders, with_names
from esops.readmodel.registry import Version

_SQL = statements(__package__, "tables")


def create_statements(
    names: Sequence[ReadModelName],
    tables: Mapping[str, tuple[str, str]],
    blue: Mapping[str, Table],
    ddl: Path | None,
) -> list[str]:
    """The statements that make green.

    `tables` are green's physical names, `blue` the tables that serve, both by the name that the
    application reads. `ddl` is the user's file. Raises UsageError where there is neither a file nor
    a table to make one like, or where the file does not name the tables.
    """
    if ddl is not None:
        try:
            text = ddl.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the DDL {ddl} cannot be read: {error.strerror}") from None
        for placeholder in placeholders(names):
            if placeholder not in text:
                raise UsageError(
                    f"the DDL {ddl} does not name {placeholder}",
                    hint=f"Write CREATE TABLE {placeholder} (…).",
                )
        return [with_names(text, tables)]
    missing = next((each for each in names if each.name not in blue), None)
    if missing is not None:
        raise UsageError(
            f"there is no table {missing} from which the first version could be made",
            hint='Give its DDL: ddl = "sql/….sql" with '
            f"{placeholders(names)[names.index(missing)]}.",
        )
    return [
        f"CREATE TABLE {qualified(*tables[each.name]).as_string(None)} "
        f"(LIKE {qualified(blue[each.name].schema, blue[each.name].name).as_string(None)} "
        "INCLUDING ALL)"
        for each in names
    ]


def carry_statements(connection: psycopg.Connection, blue: Table, green: Table) -> list[str]:
    """The statements that give green what LIKE does not copy: storage options, comment, rights,
    owner.
    """
    name = qualified(green.schema, green.name).as_string(connection)
    result: list[str] = []
    row = connection.execute(_SQL["storage"], (blue.oid,)).fetchone()
    assert row is not None
    options, comment, ours = row
    if options and blue.kind == "r":
        result.append(f"ALTER TABLE {name} SET ({options})")
    if comment is not None:
        result.append(f"COMMENT ON TABLE {name} IS {sql.Literal(comment).as_string(connection)}")
    result += change_statements(
        connection, name, rights(connection, green.oid), rights(connection, blue.oid)
    )
    # The owner last: once the table is somebody else's, this role may no longer change it.
    if not ours:
        owner = sql.Identifier(blue.owner).as_string(connection)
        result.append(f"ALTER TABLE {name} OWNER TO {owner}")
    return result


def not_carried(connection: psycopg.Connection, blue: Table) -> list[str]:
    """What blue has and green will not get, each in words.

    Raises Refused for row security: readers would see rows that were hidden from them.
    """
    if blue.row_security:
        raise Refused(
            f"{blue.schema}.{blue.name} has row security, which a view in its place would not keep",
            hint="Rebuild it under a name without policies, or move the policies to the "
            "readers' views.",
        )
    rows = connection.execute(_SQL["not_carried"], {"oid": blue.oid}).fetchall()
    return [row[0] for row in rows]


def missing_tables(connection: psycopg.Connection, version: Version) -> list[str]:
    """The tables of a version, with their schemas, that do not exist: somebody dropped them."""
    return [
        ".".join(physical)
        for physical in version.tables.values()
        if catalog.find_table(connection, *physical) is None
    ]


def count_rows(connection: psycopg.Connection, table: tuple[str, str]) -> int:
    """How many rows a table (schema, physical name) has, by counting them."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(qualified(*table))
    ).fetchone()
    return int(row[0]) if row else 0


def drop_tables(connection: psycopg.Connection, version: Version) -> list[str]:
    """Drop a version's tables, in the transaction that the connection is in, never with CASCADE.

    Returns the statements that were run; tables that do not exist any more are skipped.
    """
    drop_replaced(connection)
    done: list[str] = []
    for schema, name in version.tables.values():
        table = catalog.find_table(connection, schema, name)
        if table is None:
            continue
        freed = connection.execute(_SQL["free_sequences"], {"oid": table.oid}).fetchall()
        for statement in (
            *(row[0] for row in freed),
            f"DROP TABLE {qualified(schema, name).as_string(connection)}",
        ):
            connection.execute(statement.encode())
            done.append(statement)
    return done


def common_columns(blue: Table, green: Table, ignore: Sequence[str]) -> list[str]:
    """The columns that are compared: those that both tables have, without those to be ignored, in
    green's order.
    """
    return [
        column.name
        for column in green.columns
        if blue.has(column.name) and column.name not in ignore
    ]


@contextmanager
def rolled_back(connection: psycopg.Connection) -> Iterator[None]:
    """Run statements to see what they would make, and roll them back.

    Waits two seconds at most for a lock on a table of the application's.
    """
    with connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL lock_timeout = '2s'")
        yield
