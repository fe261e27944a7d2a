"""A read model's tables in Postgres: how those of a version are made, what they get from the ones
that serve, and how they are dropped.

Green is made like the table that serves now, or by the user's DDL. Its keys and indexes are taken
off again for the load (after_load.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import psycopg
from psycopg import sql

from esops.errors import Refused, UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.held import wait_briefly
from esops.postgres.statements import statements
from esops.readmodel.ddl_text import of_transactions
from esops.readmodel.dependants import drop_replaced
from esops.readmodel.described import owners_lost
from esops.readmodel.names import ReadModelName, physical_tables, placeholders, with_names
from esops.readmodel.object_names import Side
from esops.readmodel.properties import create_like
from esops.readmodel.registry import Version

_SQL = statements(__package__, "tables")


def create_statements(
    connection: psycopg.Connection,
    names: Sequence[ReadModelName],
    version: int,
    blue: Mapping[str, Side],
    ddl: Path | None,
) -> list[str]:
    """The statements that make green, the version of that number.

    `blue` are the tables that serve, by the name that the application reads. `ddl` is the user's
    file. Raises UsageError where there is neither a file nor a table to make one like, or where the
    file does not name the tables or ends a transaction.
    """
    tables = physical_tables(names, version)
    if ddl is not None:
        try:
            text = ddl.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"the DDL {ddl} cannot be read: {error.strerror}") from None
        ends = of_transactions(text)
        if ends is not None:
            raise UsageError(
                f"the DDL {ddl} has {ends} in it, and esops runs it in a transaction of its own",
                hint="Leave BEGIN, COMMIT and the like out: nobody sees green before all is made.",
            )
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
        statement
        for each in names
        for statement in create_like(connection, blue[each.name], tables[each.name], version)
    ]


def not_carried(connection: psycopg.Connection, blue: Table, mode: str) -> list[str]:
    """What blue has and green will not get, each in words. `mode` is how it is switched.

    Raises Refused where readers would see rows that were hidden from them, or blue's rows in
    another table.
    """
    if blue.row_security and mode == "view":
        raise Refused(
            f"{blue.schema}.{blue.name} has row security, which a view in its place would not keep",
            hint='With switch = "rename" the table keeps it. Or move the policies to the '
            "readers' views.",
        )
    parent = connection.execute(_SQL["parent"], {"oid": blue.oid}).fetchone()
    if parent is not None:
        raise Refused(
            f"{blue.schema}.{blue.name} is a part of {parent[0]}, which would still have the rows "
            "of the old version after a switch",
            hint=f"Rebuild {parent[0]}, or detach the table from it.",
        )
    rows = connection.execute(
        _SQL["not_carried"], {"oid": blue.oid, "renames": mode == "rename"}
    ).fetchall()
    return [*(row[0] for row in rows), *owners_lost(connection, blue.oid)]


def missing_tables(connection: psycopg.Connection, version: Version) -> list[str]:
    """The tables of a version, with their schemas, that do not exist: somebody dropped them."""
    return [
        ".".join(physical)
        for physical in version.tables.values()
        if not catalog.has_table(connection, *physical)
    ]


def count_rows(connection: psycopg.Connection, table: tuple[str, str]) -> int:
    """How many rows a table (schema, physical name) has, by counting them."""
    row = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(qualified(*table))
    ).fetchone()
    return int(row[0]) if row else 0


def has_rows(connection: psycopg.Connection, table: tuple[str, str]) -> bool:
    """Whether a table (schema, physical name) has any row."""
    row = connection.execute(
        sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(*table))
    ).fetchone()
    return row is not None and bool(row[0])


def drop_tables(connection: psycopg.Connection, version: Version) -> list[str]:
    """Drop a version's tables, in the transaction that the connection is in, never with CASCADE.

    Returns the statements that were run; tables that do not exist any more are skipped. What comes
    after it in the transaction keeps writers waiting: a foreign key locks the table that it refers
    to. So no statement waits for a lock longer than a moment from here on; `in_short_tries` tries
    it again.
    """
    wait_briefly(connection)
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
