"""Rights on a relation, carried over to another one that takes its place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.postgres.statements import statements

_SQL = statements(__package__, "grants")


@dataclass(frozen=True, slots=True)
class Right:
    """A right that somebody has on a relation, or on one of its columns."""

    privilege: str
    column: str | None
    grantee: int
    """The role's oid; 0 for PUBLIC."""
    grantable: bool


def rights(connection: psycopg.Connection, oid: int) -> set[Right]:
    """The rights on a relation of everybody but its owner."""
    return _read(connection, "rights", {"oid": oid})


def default_rights(connection: psycopg.Connection, schema: str) -> set[Right]:
    """The rights that ALTER DEFAULT PRIVILEGES gives on a relation which this role creates."""
    return _read(connection, "default_rights", {"schema": schema})


def given_by_others(connection: psycopg.Connection, oid: int) -> list[str]:
    """The rights on a relation that not its owner gave, each in words."""
    return [row[0] for row in connection.execute(_SQL["given_by_others"], {"oid": oid}).fetchall()]


def grant_statements(connection: psycopg.Connection, oid: int, target: str) -> list[str]:
    """The GRANTs that give the rights on a relation, whole and by column, on another one.

    `oid` is the relation that has the rights, `target` the quoted name of the other one.
    """
    return change_statements(connection, target, set(), rights(connection, oid))


def change_statements(
    connection: psycopg.Connection, target: str, have: Collection[Right], want: Collection[Right]
) -> list[str]:
    """The REVOKEs and GRANTs after which a relation (its quoted name) has these rights and no
    others.

    What its owner may do stays as it is.
    """
    away = sorted(set(have) - set(want), key=_order)
    # Revoking takes with it what was given on, so everything is given again.
    given = sorted(want if away else set(want) - set(have), key=_order)
    names = _names(connection, {right.grantee for right in (*away, *given)})
    cascade = " CASCADE" if any(right.grantable for right in away) else ""
    revoked = [
        f"REVOKE {what} ON {target} FROM {names[grantee]}{cascade}"
        for what, grantee, _ in _grouped(connection, away)
    ]
    granted = [
        f"GRANT {what} ON {target} TO {names[grantee]}{' WITH GRANT OPTION' if grantable else ''}"
        for what, grantee, grantable in _grouped(connection, given)
    ]
    return list(dict.fromkeys(revoked)) + granted


def _read(connection: psycopg.Connection, name: str, values: dict[str, object]) -> set[Right]:
    return {Right(*row) for row in connection.execute(_SQL[name], values).fetchall()}


def _order(right: Right) -> tuple[str, int, bool, str]:
    return (right.privilege, right.grantee, right.grantable, right.column or "")


def _grouped(connection: psycopg.Connection, found: Iterable[Right]) -> list[tuple[str, int, bool]]:
    """What is granted, with all its columns at once: "SELECT", "SELECT (a, b)"."""
    groups: dict[tuple[str, int, bool, bool], list[str]] = defaultdict(list)
    for each in found:
        group = groups[each.privilege, each.grantee, each.grantable, each.column is None]
        if each.column is not None:
            group.append(sql.Identifier(each.column).as_string(connection))
    return [
        (privilege + (f" ({', '.join(columns)})" if columns else ""), grantee, grantable)
        for (privilege, grantee, grantable, _), columns in groups.items()
    ]


def _names(connection: psycopg.Connection, grantees: Collection[int]) -> dict[int, str]:
    rows = connection.execute(_SQL["grantees"], {"grantees": list(grantees)}).fetchall()
    return {row[0]: row[1] for row in rows}
