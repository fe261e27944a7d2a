"""Whether readers of a view see the same, and may do the same, where its table takes its place."""

from __future__ import annotations

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.readmodel.names import ReadModelName

_SQL = statements(__package__, "in_place_of_view")


def check(connection: psycopg.Connection, name: ReadModelName, view: Table, table: Table) -> None:
    """Raises Refused where the table would show other rows than the view in front of it, give
    rights that nobody had, or take rights away.
    """
    shown, plain = f"{table.schema}.{table.name}", qualified(table.schema, table.name)
    table_sql, view_sql = (
        each.as_string(connection) for each in (plain, qualified(view.schema, view.name))
    )
    if table.row_security:
        raise Refused(
            f"{shown} has row security, which applies to the owner of the view {name} and not to "
            "its readers: of the table itself they would see other rows",
            hint="Decide which rows they shall see. Where it is all of them: "
            f"ALTER TABLE {table_sql} DISABLE ROW LEVEL SECURITY; then run this again.",
        )
    row = connection.execute(_SQL["differs"], {"view": view.oid, "table": table.oid}).fetchone()
    assert row is not None
    as_reader, loses = row
    if as_reader:
        raise Refused(
            f"the view {name} has security_invoker, so its readers need rights on {shown} as well: "
            "a table in its place would be readable with the rights on the view alone",
            hint="Decide who shall read it, and give the rights on the view to these only. Then: "
            f"ALTER VIEW {view_sql} RESET (security_invoker); and run this again.",
        )
    if loses:
        raise Refused(
            f"the view {name} belongs to role {view.owner}, and its table {shown} to "
            f"{table.owner}: {view.owner} would lose its rights",
            hint=f"Give it the table first: ALTER TABLE {table_sql} OWNER TO "
            f"{sql.Identifier(view.owner).as_string(connection)}; then run this again, as a member "
            "of that role.",
        )
