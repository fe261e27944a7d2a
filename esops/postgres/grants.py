"""Rights on a relation or routine, carried over to another one that takes its place.

The owner is no exception: it can give its own rights up, and whoever relied on that would get them
back with a relation that is made again. So its rights are compared as well, whoever it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import psycopg
from psycopg import sql

from esops.postgres.statements import statements

_SQL = statements(__package__, "grants")
_OWNER = -1
_WRITES = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE")
"""What esops' role needs on a table that it writes."""

Kind = Literal["TABLE", "SEQUENCE", "ROUTINE"]
"""What has the rights, as in GRANT; views are tables there."""


@dataclass(frozen=True, slots=True)
class Right:
    """A right that somebody has on an object, or on one of its columns."""

    privilege: str
    column: str | None
    grantee: int
    """The role's oid; 0 for PUBLIC, -1 for the owner, whoever that is."""
    grantable: bool


@dataclass(frozen=True, slots=True)
class Rights:
    """All rights on an object, those of its owner included."""

    kind: Kind
    owner: int
    """The role's oid."""
    given: frozenset[Right]

    def where(self, has_column: Callable[[str], bool]) -> Rights:
        """Those on the whole, and on these columns."""
        kept = (each for each in self.given if each.column is None or has_column(each.column))
        return replace(self, given=frozenset(kept))


@dataclass(frozen=True, slots=True)
class Change:
    """An object (its quoted name), the rights that it has, and those that it is to have."""

    target: str
    have: Rights
    want: Rights


def rights(connection: psycopg.Connection, oid: int, kind: Kind = "TABLE") -> Rights:
    """The rights on an object, whole and by column."""
    return _read(connection, "rights", kind, {"oid": oid, "kind": kind})


def default_rights(connection: psycopg.Connection, schema: str, kind: Kind = "TABLE") -> Rights:
    """The rights on what this role creates in a schema, with those of ALTER DEFAULT PRIVILEGES."""
    return _read(connection, "default_rights", kind, {"schema": schema, "kind": kind})


def given_by_others(connection: psycopg.Connection, oid: int, kind: Kind = "TABLE") -> list[str]:
    """The rights on an object that not its owner gave, each in words."""
    rows = connection.execute(_SQL["given_by_others"], {"oid": oid, "kind": kind}).fetchall()
    return [row[0] for row in rows]


def for_green(connection: psycopg.Connection, blue: Rights, *, shown: bool) -> Rights:
    """The rights that green gets: those of blue, and what esops and a view need that its owner gave
    up on blue.

    `shown`: a view shows green, and reads and writes it with the rights of the owner.
    """
    needed = {each.privilege for each in blue.given if each.grantee != _OWNER} if shown else set()
    row = connection.execute(_SQL["is_superuser"]).fetchone()
    if row is None or not row[0]:
        needed.update(_WRITES)
    has = {each.privilege for each in blue.given if each.grantee == _OWNER and each.column is None}
    kept = {Right(privilege, None, _OWNER, grantable=False) for privilege in needed - has}
    return replace(blue, given=blue.given | kept)


def owner_keeps(connection: psycopg.Connection, blue: Rights, *, shown: bool) -> list[str]:
    """The rights that green's owner has, although it gave them up on blue, as in GRANT."""
    more = for_green(connection, blue, shown=shown).given - blue.given
    return sorted(each.privilege for each in more)


def grant_statements(connection: psycopg.Connection, oid: int, target: str) -> list[str]:
    """The GRANTs that give others than the owner the rights on a relation, whole and by column, on
    another one.

    `oid` is the relation that has the rights, `target` the quoted name of the other one.
    """
    found = rights(connection, oid)
    given = frozenset(each for each in found.given if each.grantee != _OWNER)
    nothing = replace(found, given=frozenset())
    return change_statements(connection, Change(target, nothing, replace(found, given=given)))


def change_statements(connection: psycopg.Connection, change: Change) -> list[str]:
    """The REVOKEs and GRANTs after which an object has just the rights that it is to have.

    Its owner stays who it is.
    """
    have, want = change.have, change.want
    away = have.given - want.given
    # Revoking a right takes with it its columns and what was given on, so those are given again. An
    # owner can always give rights on, and so loses none with those of somebody else.
    taken = {each.privilege for each in away}
    taken_from_owner = {each.privilege for each in away if each.grantee == _OWNER}
    given = {
        each
        for each in want.given
        if each not in have.given
        or each.privilege in (taken_from_owner if each.grantee == _OWNER else taken)
    }
    names = _names(connection, {have.owner, *(each.grantee for each in away | given)} - {_OWNER})
    names[_OWNER] = names[have.owner]
    cascade = " CASCADE" if any(right.grantable for right in away) else ""
    target = change.target if have.kind == "TABLE" else f"{have.kind} {change.target}"
    revoked = [
        f"REVOKE {what} ON {target} FROM {names[grantee]}{cascade}"
        for what, grantee, _ in _grouped(connection, away)
    ]
    granted = [
        f"GRANT {what} ON {target} TO {names[grantee]}{' WITH GRANT OPTION' if grantable else ''}"
        for what, grantee, grantable in _grouped(connection, given)
    ]
    return list(dict.fromkeys(revoked)) + granted


def hand_over(
    connection: psycopg.Connection, what: str, change: Change, *belonging: Change
) -> list[str]:
    """The statements after which an object that this role made has the rights and the owner that it
    is to have.

    `what` is what it is, as in ALTER; `belonging` are sequences that get its owner with it.
    """
    owner = change.want.owner
    changes = (change, *belonging)
    if change.have.owner == owner:
        return [each for one in changes for each in change_statements(connection, one)]
    done: list[str] = []
    late: list[str] = []
    for one in changes:
        # With the object, all that this role has on it becomes the new owner's. So what it keeps
        # for itself is given after that.
        mine = {each for each in one.want.given if each.grantee == one.have.owner}
        first = replace(one.want, given=one.want.given - mine)
        done += change_statements(connection, replace(one, want=first))
        late += change_statements(connection, replace(one, have=first))
    name = _names(connection, {owner})[owner]
    return [*done, f"ALTER {what} {change.target} OWNER TO {name}", *late]


def _read(
    connection: psycopg.Connection, name: str, kind: Kind, values: dict[str, object]
) -> Rights:
    rows = connection.execute(_SQL[name], values).fetchall()
    # Where there is no right at all, one row still says who the owner is.
    given = frozenset(Right(*each) for _, *each in rows if each[0] is not None)
    return Rights(kind, rows[0][0], given)


def _order(right: Right) -> tuple[int, bool, str, str]:
    return (right.grantee, right.grantable, right.privilege, right.column or "")


def _grouped(connection: psycopg.Connection, found: Iterable[Right]) -> list[tuple[str, int, bool]]:
    """What is granted to somebody, all of it at once: "INSERT, SELECT (a, b)"."""
    groups: dict[tuple[int, bool], dict[str, list[str]]] = defaultdict(dict)
    for each in sorted(found, key=_order):
        group = groups[each.grantee, each.grantable]
        if each.column is None:
            group[each.privilege] = []
        else:
            # The right to the whole comes first, and its columns apart.
            columns = group.setdefault(f"{each.privilege} of columns", [])
            columns.append(sql.Identifier(each.column).as_string(connection))
    return [
        (
            ", ".join(
                what.removesuffix(" of columns") + (f" ({', '.join(columns)})" if columns else "")
                for what, columns in group.items()
            ),
            grantee,
            grantable,
        )
        for (grantee, grantable), group in groups.items()
    ]


def _names(connection: psycopg.Connection, grantees: Collection[int]) -> dict[int, str]:
    rows = connection.execute(_SQL["grantees"], {"grantees": list(grantees)}).fetchall()
    return {row[0]: row[1] for row in rows}
