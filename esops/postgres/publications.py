"""Publications of logical replication that publish a table as soon as it is made, or that follow a
table to another name.

A subscriber finds its table by the name that the publisher's has. Where it has none of that name,
its subscription stops at the first row, with everything else that it replicates, and the publisher
keeps WAL for it until the disk is full. Whether a publication has subscribers cannot be known: one
that is disconnected shows no session, and a slot does not say which publications are read by it.
So esops refuses to make or rename tables that are published, unless esops.toml allows it.
Documented in docs/how-to/logical-replication.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.statements import statements

_SQL = statements(__package__, "publications")
_ALLOW = "SELECT pg_catalog.set_config('esops.publications', 'allowed', false)"
_HINT = (
    "Prepare the subscribers as `esops docs logical-replication` says, and set publications = "
    '"allowed" in the section of esops.toml that has this database\'s address.'
)


@dataclass(frozen=True, slots=True)
class Membership:
    """A publication that names a table, and the statements that would remove the table from it and
    put another one in.
    """

    publication: str
    drop: str
    add: str
    owner: str
    ours: bool
    """Whether this session's role may change the publication."""


def allow(connection: psycopg.Connection) -> None:
    """Note in a session that its address allows tables that are published."""
    connection.execute(_ALLOW)


def allowed(connection: psycopg.Connection) -> bool:
    """Whether the session's address allows tables that are published."""
    row = connection.execute("SELECT current_setting('esops.publications', true)").fetchone()
    return row == ("allowed",)


def of_new_tables(connection: psycopg.Connection, schema: str) -> list[str]:
    """The publications that publish a new table of a schema, each with its clause; none where WAL
    is not decoded.
    """
    if not decoded(connection):
        return []
    found = connection.execute(_SQL["of_all"]).fetchall()
    if connection.info.server_version >= 150000:
        found += connection.execute(_SQL["of_schema"], {"schema": schema}).fetchall()
    return [row[0] for row in found]


def of_table(connection: psycopg.Connection, oid: int, other: str) -> list[Membership]:
    """The publications that name a table itself, whether or not WAL is decoded. `other` is the
    table that could be published in its place, quoted as SQL.
    """
    since_15 = connection.info.server_version >= 150000
    name = "of_table_in_part" if since_15 else "of_table"
    rows = connection.execute(_SQL[name], {"oid": oid, "other": other}).fetchall()
    return [
        Membership(publication, f"ALTER PUBLICATION {drop}", f"ALTER PUBLICATION {add}", *whose)
        for publication, drop, add, *whose in rows
    ]


def of_rows(connection: psycopg.Connection, oid: int) -> list[tuple[str, str | None]]:
    """The publications that publish new rows of a table, whether they name it or publish all, each
    with the condition that rows have to meet (None: all rows).
    """
    name = "of_rows_in_part" if connection.info.server_version >= 150000 else "of_rows"
    return connection.execute(_SQL[name], {"oid": oid}).fetchall()


def decoding_slots(connection: psycopg.Connection) -> list[tuple[str, str]]:
    """The replication slots whose plug-in decodes every table, with its name."""
    return connection.execute(_SQL["decoding_slots"]).fetchall()


def moved(
    connection: psycopg.Connection, oid: int, to: int, name: str
) -> tuple[list[str], list[str]]:
    """The statements that remove a table from the publications that name it, and those that put
    the table `to` in its place once it has the quoted name.
    """
    there = {each.publication for each in of_table(connection, to, "")}
    found = [each for each in of_table(connection, oid, name) if each.ours]
    return (
        [each.drop for each in found],
        [each.add for each in found if each.publication not in there],
    )


def check_new_tables(connection: psycopg.Connection, schema: str, what: str) -> None:
    """Raises Refused where new tables of a schema, in words `what`, would be published and the
    session's address does not allow it.
    """
    if allowed(connection):
        return
    if found := of_new_tables(connection, schema):
        raise Refused(
            f"{_named(found)} would publish {what}: a subscriber that does not have a table of "
            "that name stops at its first row, with all that it replicates",
            hint=f"Nothing was changed. {_HINT}",
        )


def check_rename(connection: psycopg.Connection, table: Table, to: str) -> None:
    """Raises Refused where a table is published, and would be under another name, and the session's
    address does not allow it.
    """
    if allowed(connection) or not decoded(connection):
        return
    named = of_table(connection, table.oid, "")
    found = [*(each.publication for each in named), *of_new_tables(connection, table.schema)]
    if found:
        drop = "; ".join(each.drop for each in named)
        raise Refused(
            f"{_named(found)} would publish {table.schema}.{table.name} as {to} after the switch: "
            "a subscriber finds no table of that name and stops, or another version's and mixes "
            "their rows",
            hint=f"Remove the table from the publication before: {drop}; Or: {_HINT}"
            if named
            else _HINT,
        )


def check_truncate(connection: psycopg.Connection, oids: list[int], names: str) -> None:
    """Raises Refused where rows of these tables are published, and that they are emptied is not:
    subscribers would keep the old rows, and stop at the first new one with the same key.
    """
    if allowed(connection) or not decoded(connection):
        return
    rows = connection.execute(_SQL["without_truncate"], {"oids": oids}).fetchall()
    if found := [row[0] for row in rows]:
        change = "; ".join(
            f"ALTER PUBLICATION {each} SET (publish = 'insert, update, delete, truncate')"
            for each in found
        )
        raise Refused(
            f"subscribers of {_named(found)} do not see that {names} is emptied: they would keep "
            "the old rows and stop at the first new one",
            hint=f"Nothing was changed. Rebuild with --blue-green or --ranges, or run: {change};",
        )


def _named(found: list[str]) -> str:
    return f"the publication{'s' if len(found) > 1 else ''} {' and '.join(found)}"


def decoded(connection: psycopg.Connection) -> bool:
    """Whether the server writes what logical replication needs."""
    return connection.execute(_SQL["decoded"]).fetchone() == (True,)
