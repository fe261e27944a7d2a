"""What a switch cannot carry over: why, and what somebody can do about it by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.statements import statements
from esops.readmodel.dependants import Dependant
from esops.readmodel.names import ReadModelName

_SQL = statements(__package__, "left_behind")
_TEMPORARY = "pg_temp_"
_MEANWHILE = (
    '--no-switch builds and verifies the new version in the meantime; with live = "inline", '
    "--postpone does until `esops projection switch-now`."
)
IN_PLACE = {
    "view": "view",
    "function": "function",
    "policy": "policy",
    "rule": "rule",
    "default": "default",
}
"""The kinds that keep their identity, and the statement that says how each is replaced."""


@dataclass(frozen=True, slots=True)
class Root:
    """A name that will stand for another relation: what it stands for now, and for what then."""

    name: ReadModelName
    current: Table
    target: Table
    view: bool
    """Whether it will be a view; otherwise a table."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What cannot be carried over, why, and what somebody can do by hand before and after."""

    name: str
    why: str
    before: str | None
    after: str | None
    by: str | None = None
    """The role that has to do it; None for esops' own."""


def is_made_again(each: Dependant) -> bool:
    """Whether an object is made again, because Postgres cannot replace it in its place."""
    return each.kind == "materialised view" or (each.kind == "function" and each.has_type)


def obstacle_of(
    connection: psycopg.Connection, roots: Sequence[Root], each: Dependant
) -> Obstacle | None:
    """What stands against carrying an object over; None where nothing does."""
    if each.relation_name.startswith(_TEMPORARY):
        row = connection.execute(_SQL["temporary"], {"relation": each.relation}).fetchone()
        whose = f"session {row[0]}" if row is not None and row[0] else "another session"
        return Obstacle(each.name, f"it is temporary, and goes when {whose} ends", None, None)
    why = _why_not(roots, each)
    if why is None:
        return None
    if not each.ours and _why_not(roots, replace(each, ours=True)) is None:
        # Whoever is a member of a superuser may do everything, so that is never advised.
        grant = connection.execute(_SQL["grant"], {"role": each.owner}).fetchone()
        if grant is not None:
            return Obstacle(each.name, why, grant[0], None, "a superuser")
    return by_hand(connection, roots, each, why)


def by_hand(
    connection: psycopg.Connection, roots: Sequence[Root], each: Dependant, why: str
) -> Obstacle:
    """An object that cannot be carried over, with the statements to run by hand."""
    row = connection.execute(
        _SQL["by_hand"],
        {
            "kind": each.kind,
            "oid": each.oid,
            "column": each.column,
            "class": each.catalogue,
            "used": each.uses[0][0][1],
        },
    ).fetchone()
    assert row is not None
    before, after = row
    # It cannot be again as it was.
    if _lost_columns(roots, each) or (each.kind == "foreign key" and _become_views(roots)):
        after = None
    return Obstacle(each.name, why, before, after, None if each.ours else each.owner)


def _why_not(roots: Sequence[Root], each: Dependant) -> str | None:
    """Why an object cannot be carried over, in words; None where it can."""
    if each.kind == "foreign key" and _become_views(roots):
        return 'it cannot refer to a view; with switch = "rename" it can be made again'
    if each.kind not in IN_PLACE and not is_made_again(each):
        return "it is bound to one version"
    if each.of_extension:
        return "it belongs to an extension"
    if not each.ours:
        return f"it belongs to the role {each.owner}, of which this role is not a member"
    if each.kind == "view" and each.has_type:
        return "one of its columns has the row type of one version"
    if each.kind == "default" and each.relation_is_view:
        return "it is bound to one version"
    if lost := _lost_columns(roots, each):
        return f"it uses {lost}"
    if each.makes_rows and any(columns_change(root) for root in roots):
        return "it makes rows of a type whose columns change"
    return None


def columns_change(root: Root) -> bool:
    """Whether the columns under a name change."""
    before, after = root.current.columns, root.target.columns
    return [(c.name, c.type) for c in before] != [(c.name, c.type) for c in after]


def _become_views(roots: Sequence[Root]) -> bool:
    return any(root.view for root in roots)


def _lost_columns(roots: Sequence[Root], each: Dependant) -> str:
    """The columns that an object uses and that will not be there, or be others, in words."""
    lost: list[str] = []
    for root in roots:
        for (kind, oid), column in each.uses:
            if (kind, oid) != ("pg_class", root.current.oid) or column is None:
                continue
            if not root.target.has(column):
                lost.append(f"the column {column}, which is dropped")
            elif root.target.column(column).type != root.current.column(column).type:
                becomes = root.target.column(column).type
                lost.append(f"the column {column}, which becomes {becomes}")
    return ", ".join(lost)


def refuse(roots: Sequence[Root], obstacles: Sequence[Obstacle]) -> None:
    """Raises Refused where there are any, with the statements to run before and after."""
    if not obstacles:
        return
    before = [(each.by, each.before) for each in obstacles if each.before is not None]
    after = [(each.by, each.after) for each in reversed(obstacles) if each.after is not None]
    steps = [
        (
            f"{when} the switch, run{f' as {role}' if role else ''}:",
            *dict.fromkeys(f"  {statement};" for by, statement in run if by == role),
        )
        for when, run in (("Right before", before), ("Right after", after))
        for role in dict.fromkeys(by for by, _ in run)
    ]
    raise Refused(
        f"the switch of {', '.join(str(root.name) for root in roots)} would leave behind what "
        "refers to the version that serves now: "
        + "; ".join(f"{each.name} ({each.why})" for each in obstacles),
        hint="\n".join(
            [
                _MEANWHILE,
                *(line for step in steps for line in step),
            ]
        ),
    )
