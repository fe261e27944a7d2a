"""What doctor checks of a store in Postgres: the server's version, the role's rights, sequences and
indexes, and what the library itself keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from esops.health import publications, row_security
from esops.health.findings import Finding
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.base import StoreInfo

if TYPE_CHECKING:
    from esops.stores.parts import SqlAccess, SqlTables

OLDEST = 14
_CONCERNS = {
    "reused ids": "ESOPS-D025",
    "orphan progress": "ESOPS-D026",
    "paused": "ESOPS-D094",
    "times": "ESOPS-D078",
    "doubled": "ESOPS-D079",
    "not unique": "ESOPS-D080",
    "never unique": "ESOPS-D083",
    "incomplete": "ESOPS-D081",
    "missing numbers": "ESOPS-D082",
}
_SQL = statements(__package__, "postgres")


def examine(subject: str, info: StoreInfo, access: SqlAccess) -> Iterator[Finding]:
    """Check the database of a store."""
    if int(info.version.partition(".")[0]) < OLDEST:
        yield Finding(
            "ESOPS-D015",
            subject,
            f"PostgreSQL {info.version} is older than {OLDEST}",
            "Upgrade the server.",
        )
    tables = access.tables
    with access.control() as connection:
        yield from _rights(subject, connection, tables)
        names = [each.as_string(connection) for each in tables.reads]
        hidden = list(row_security.examine(subject, connection, names))
        yield from hidden
        yield from _sequences(subject, connection, tables)
        yield from _index(subject, connection, tables)
        yield from publications.of_store(subject, connection)
    if not hidden:  # else the server refuses to look
        for concern in access.concerns():
            yield Finding(_CONCERNS[concern.kind], subject, concern.message, concern.fix)


def _rights(subject: str, connection: psycopg.Connection, tables: SqlTables) -> Iterator[Finding]:
    role = connection.info.user
    for what, function, names in (
        ("", "has_table_privilege", tables.reads),
        ("SEQUENCE ", "has_sequence_privilege", tables.sequences),
    ):
        question = sql.SQL("SELECT {}(%s, 'SELECT')").format(sql.Identifier(function))
        for name in names:
            text = name.as_string(connection)
            row = connection.execute(question, (text,)).fetchone()
            if row is not None and not row[0]:
                grant = sql.SQL("GRANT SELECT ON {}{} TO {};")
                fix = grant.format(sql.SQL(what), name, sql.Identifier(role))
                yield Finding(
                    "ESOPS-D010",
                    subject,
                    f"role {role} may not read {text}",
                    fix.as_string(connection),
                )


def _sequences(
    subject: str, connection: psycopg.Connection, tables: SqlTables
) -> Iterator[Finding]:
    """A session takes as many numbers as the cache holds, and may use the last of them hours later.
    Until then nobody can tell whether a missing number will still come. The numbers between those
    of the sequence are in the application's memory, of which nobody can tell anything.
    """
    for name in tables.sequences:
        schema, short = _parts(name)
        found = catalog.sequence_of(connection, schema, short)
        if found is None:
            continue
        cache, increment = found
        if cache > 1:
            yield Finding(
                "ESOPS-D011",
                subject,
                f"sequence {short} gives each session {cache} numbers in advance, so a missing "
                "number holds the head back until every older session has ended",
                f"ALTER SEQUENCE {name.as_string(connection)} CACHE 1;",
            )
        if increment > 1:
            yield Finding(
                "ESOPS-D039",
                subject,
                f"sequence {short} gives every {increment}th number, and the application may hand "
                "out those in between: esops refuses to read past a missing one",
                f"Set `dead_after` of the store, or ALTER SEQUENCE {name.as_string(connection)} "
                "INCREMENT BY 1.",
            )


def _index(subject: str, connection: psycopg.Connection, tables: SqlTables) -> Iterator[Finding]:
    if len(tables.order) == 1:
        return  # the primary key, or a unique index that the library makes
    columns = [_parts(each)[-1] for each in tables.order]
    events = tables.events.as_string(connection)
    row = connection.execute(_SQL["has_index"], (events, len(columns), columns)).fetchone()
    if row and row[0]:
        return
    listed = ", ".join(each.as_string(connection) for each in tables.order)
    for table in catalog.row_tables(connection, events):
        yield Finding(
            "ESOPS-D014",
            subject,
            "no index has the order of the positions, so each page of a rebuild sorts all events "
            "that are left",
            f"CREATE INDEX CONCURRENTLY ON {table} ({listed});",
        )


def _parts(name: sql.Composable) -> tuple[str, str]:
    """Schema and name of an identifier; the schema is empty where it has none."""
    parts = name._obj if isinstance(name, sql.Identifier) else ("",)  # noqa: SLF001 - psycopg gives no other way to ask
    return (parts[0] if len(parts) > 1 else "", parts[-1])
