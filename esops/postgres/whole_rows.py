"""All rows of a table as texts, for whoever looks for something that may be in any column."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
from psycopg import sql

from esops.postgres.catalog import Table
from esops.postgres.connection import qualified

_FETCHED = 200


def whole_rows(connection: psycopg.Connection, table: Table) -> Iterator[list[list[str]]]:
    """The texts of each row, in batches: the row as JSON, and what its columns of bytes say."""
    binary = [column.name for column in table.columns if column.kind == "bytea"]
    statement = sql.SQL("SELECT {} FROM {} AS t").format(
        sql.SQL(", ").join(
            [
                sql.SQL("(to_jsonb(t) - {}::text[])::text").format(sql.Literal(binary)),
                *(sql.Identifier("t", name) for name in binary),
            ]
        ),
        qualified(table.schema, table.name),
    )
    with connection.transaction(), connection.cursor("esops_whole_rows") as cursor:
        cursor.execute(statement)
        while found := cursor.fetchmany(_FETCHED):
            yield [
                [row[0], *(bytes(value).decode("utf-8", "replace") for value in row[1:] if value)]
                for row in found
            ]
