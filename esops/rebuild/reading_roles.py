"""Who may read what a switch shows: the roles of `grant_select_to`, and a note where nobody may.

What serves already keeps its rights at a switch. A first version has none, so that the application
could not read it.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import sql

from esops.errors import UsageError
from esops.postgres.catalog import Table
from esops.postgres.grants import default_rights
from esops.postgres.statements import statements
from esops.readmodel.names import ReadModelName

EVERYBODY = "public"
_SQL = statements(__package__, "reading_roles")


def grants(
    connection: psycopg.Connection,
    name: ReadModelName,
    current: Table | None,
    roles: Sequence[str],
) -> list[str]:
    """The GRANTs after which these roles may read what has the name. `current` has it now, and its
    rights stay.

    Raises UsageError where there is no such role.
    """
    if not roles:
        return []
    for (unknown,) in connection.execute(_SQL["unknown"], (list(roles),)).fetchall():
        raise UsageError(
            f"grant_select_to: there is no role {unknown}",
            hint="Create it, or correct the projection's grant_select_to in esops.toml.",
        )
    values = {"roles": list(roles), "relation": None if current is None else current.oid}
    return [
        sql.SQL("GRANT SELECT ON {} TO {}")
        .format(name.identifier, _grantee(role))
        .as_string(connection)
        for (role,) in connection.execute(_SQL["lacking"], values).fetchall()
    ]


def notes(
    connection: psycopg.Connection, names: Sequence[ReadModelName], roles: Sequence[str]
) -> list[str]:
    """What keeps everybody but esops' own role from reading a first version, in words."""
    found = []
    schemas = list(dict.fromkeys(name.schema for name in names))
    for schema in schemas:
        values = {"roles": list(roles), "schema": schema}
        for (role,) in connection.execute(_SQL["outside"], values).fetchall():
            fix = sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(
                sql.Identifier(schema), _grantee(role)
            )
            found.append(
                f"{role} may not look into schema {schema}, so that it cannot read what is shown "
                f"there. As the schema's owner: {fix.as_string(connection)}"
            )
    if roles or any(_read_by_default(connection, schema) for schema in schemas):
        return found
    others = [row[0] for row in connection.execute(_SQL["others"]).fetchall()]
    # Where everybody comes as this role, or as a superuser, all may read it.
    if not others:
        return found
    what = ", ".join(map(str, names))
    listed = ", ".join(f'"{each}"' for each in others)
    found.append(
        f"no role but that of esops may read {what} after the switch. Name those that shall, with "
        f"grant_select_to in esops.toml; roles here: {listed}"
    )
    return found


def _grantee(role: str) -> sql.Composable:
    return sql.SQL("PUBLIC") if role == EVERYBODY else sql.Identifier(role)


def _read_by_default(connection: psycopg.Connection, schema: str) -> bool:
    """Whether ALTER DEFAULT PRIVILEGES gives somebody else the right to read."""
    given = default_rights(connection, schema)
    return any(
        each.privilege == "SELECT" and each.grantee not in (-1, given.owner) for each in given.given
    )
