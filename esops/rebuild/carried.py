"""What refers to a read model goes with it in the switch's own transaction.

Postgres binds views, functions, policies and the rest to a relation's identity. Where a switch puts
another relation under the name, they are bound to the new one: replaced in their place where that
is possible (views, policies, rules, functions by their body, default values), and made again where
it is not (materialised views, functions of the row type). Definitions come from the catalogue.
Whatever cannot be carried over is refused by name, with the statements to run before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import psycopg

from esops.errors import Refused
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.grants import grant_statements
from esops.postgres.statements import statements
from esops.readmodel.dependants import (
    Dependant,
    Reference,
    dependants,
    qualified_names,
    references,
)
from esops.readmodel.names import ReadModelName, shortened

_SQL = statements(__package__, "carried")
_IN_PLACE = {
    "view": "view",
    "function": "function",
    "policy": "policy",
    "rule": "rule",
    "default": "default",
}
"""The kinds that keep their identity, and the statement that says how each is replaced."""
_MADE_AGAIN = {"materialised view": "materialised_view", "function": "moved_function"}


@dataclass(frozen=True, slots=True)
class Root:
    """A name that will stand for another relation: what it stands for now, and for what then."""

    name: ReadModelName
    current: Table
    target: Table
    view: bool
    """Whether it will be a view; otherwise a table."""


@dataclass(frozen=True, slots=True)
class Carried:
    """The statements before and after those that point the names at other relations."""

    before: Sequence[str] = ()
    after: Sequence[str] = ()
    names: Sequence[str] = ()
    """What is carried over, in words; materialised views with their size."""
    aside: Mapping[str, str] = field(default_factory=dict)
    """Views under the read model's names, and the names that they get until `after` drops them."""

    def notes(self) -> list[str]:
        """For a plan: what is carried over."""
        return [f"carried over by the switch: {name}" for name in self.names]

    def away(self, name: ReadModelName) -> str:
        """The statement that takes the view of that name out of the way."""
        view = name.identifier.as_string(None)
        if name.name not in self.aside:
            return f"DROP VIEW {view}"
        aside = qualified(name.schema, self.aside[name.name]).as_string(None).split(".")[-1]
        return f"ALTER VIEW {view} RENAME TO {aside}"


@dataclass(frozen=True, slots=True)
class _Obstacle:
    """What cannot be carried over, why, and what somebody can do by hand before and after."""

    name: str
    why: str
    before: str | None
    after: str | None


@dataclass(slots=True)
class _Statements:
    """The statements that carry one object over."""

    before: list[str]
    after: list[str]
    drop: list[str]
    finish: list[str]


def carry(connection: psycopg.Connection, roots: Sequence[Root]) -> Carried:
    """How what refers to these names is carried over, as the catalogue is now.

    Raises Refused where something cannot be.
    """
    if not roots:
        return Carried()
    with qualified_names(connection):
        found, again = _found(connection, roots)
        obstacles = [
            obstacle
            for each in found
            if (obstacle := _obstacle(connection, roots, each)) is not None
        ]
        own, own_names = _own(connection, roots, obstacles)
        _refuse(roots, obstacles)
        if not found and not own:
            return Carried()
        return _carried(connection, roots, found, again, (own, own_names))


def execute(connection: psycopg.Connection, done: Sequence[str]) -> None:
    """Run the statements of a switch.

    Raises Refused with the statement that the server does not take; the transaction is over then.
    """
    for statement in done:
        try:
            connection.execute(statement.encode())
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            raise Refused(
                f"the switch failed at `{statement.splitlines()[0]}`: {str(error).splitlines()[0]}",
                hint="Nothing was changed. Fix what it says, then switch again.",
            ) from error


# -- what there is


def _found(
    connection: psycopg.Connection, roots: Sequence[Root]
) -> tuple[list[Dependant], list[Dependant]]:
    """Everything to be carried over, and that of it which is made again, in the order of making.

    What refers to something that is made again is to be carried over as well.
    """
    oids = [root.current.oid for root in roots]
    moved: dict[Reference, Reference] = {
        reference: ("pg_class", oid) for oid in oids for reference in references(connection, oid)
    }
    again: dict[Reference, Dependant] = {}
    while True:
        found = dependants(connection, moved, oids)
        new = [each for each in found if _is_made_again(each) and each.reference not in moved]
        if not new:
            break
        for each in new:
            again[each.reference] = each
            mine = [each.reference] if each.kind == "function" else references(connection, each.oid)
            moved.update(dict.fromkeys(mine, each.reference))
    order = TopologicalSorter(
        {
            each.reference: {
                owner
                for used, _ in each.uses
                if (owner := moved[used]) in again and owner != each.reference
            }
            for each in found
            if each.reference in again and _is_made_again(each)
        }
    )
    return found, [again[reference] for reference in order.static_order()]


def _is_made_again(each: Dependant) -> bool:
    return each.kind == "materialised view" or (each.kind == "function" and each.has_type)


# -- what stands against it


def _obstacle(
    connection: psycopg.Connection, roots: Sequence[Root], each: Dependant
) -> _Obstacle | None:
    why = _why_not(roots, each)
    if why is None:
        return None
    if not each.ours:
        row = connection.execute(
            "SELECT format('GRANT %%I TO %%I', %s::text, current_user)", (each.owner,)
        ).fetchone()
        assert row is not None
        return _Obstacle(each.name, why, row[0], None)
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
    return _Obstacle(each.name, why, before, after)


def _why_not(roots: Sequence[Root], each: Dependant) -> str | None:
    """Why an object cannot be carried over, in words; None where it can."""
    if each.kind == "foreign key" and _become_views(roots):
        return 'it cannot refer to a view; with switch = "rename" it can be made again'
    if each.kind not in _IN_PLACE and not _is_made_again(each):
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
    if each.makes_rows and any(_change(root) for root in roots):
        return "it makes rows of a type whose columns change"
    return None


def _change(root: Root) -> bool:
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


def _own(
    connection: psycopg.Connection, roots: Sequence[Root], obstacles: list[_Obstacle]
) -> tuple[list[str], list[str]]:
    """The statements that give a view that is made again its triggers, rules and default values,
    and their names. Adds to the obstacles.
    """
    done: list[str] = []
    names: list[str] = []
    for root in roots:
        if root.current.kind != "v":
            continue
        rows = connection.execute(_SQL["own_triggers"], {"oid": root.current.oid}).fetchall()
        for name, made, dropped, columns in rows:
            gone = [column for column in columns if not root.target.has(column)]
            if not root.view:
                obstacles.append(_Obstacle(name, "a table cannot have it", dropped, None))
            elif gone:
                why = f"it uses the column {gone[0]}, which is dropped"
                obstacles.append(_Obstacle(name, why, dropped, None))
            else:
                done += made
                names.append(name)
    return done, names


def _refuse(roots: Sequence[Root], obstacles: Sequence[_Obstacle]) -> None:
    if not obstacles:
        return
    before = [each.before for each in obstacles if each.before is not None]
    after = [each.after for each in reversed(obstacles) if each.after is not None]
    steps = [
        (f"{when} the switch, run:", *(f"  {each};" for each in run))
        for when, run in (("Right before", before), ("Right after", after))
        if run
    ]
    raise Refused(
        f"the switch of {', '.join(str(root.name) for root in roots)} would leave behind what "
        "refers to the version that serves now: "
        + "; ".join(f"{each.name} ({each.why})" for each in obstacles),
        hint="\n".join(
            [
                "--no-switch builds and verifies the new version in the meantime.",
                *(line for step in steps for line in step),
            ]
        ),
    )


# -- how it is done


def _carried(
    connection: psycopg.Connection,
    roots: Sequence[Root],
    found: Sequence[Dependant],
    again: Sequence[Dependant],
    own: tuple[Sequence[str], Sequence[str]],
) -> Carried:
    made = [_made_again(connection, each, number) for number, each in enumerate(again, 1)]
    replaced = [
        _statements(connection, _IN_PLACE[each.kind], each.oid)
        for each in found
        if not _is_made_again(each)
    ]
    aside = {
        root.name.name: shortened(root.name.name, "__replaced")
        for root in roots
        if root.current.kind == "v"
    }
    before = [each for one in (*replaced, *reversed(made)) for each in one.before]
    after = [
        *(each for one in (*made, *replaced) for each in one.after),
        *own[0],
        *(each for one in reversed(made) for each in one.drop),
        *(
            "DROP VIEW " + qualified(root.name.schema, aside[root.name.name]).as_string(connection)
            for root in roots
            if root.current.kind == "v"
        ),
        *(each for one in made for each in one.finish),
    ]
    change = any(map(_change, roots))
    names = [*(_worded(connection, each, change=change) for each in found), *own[1]]
    return Carried(list(dict.fromkeys(before)), list(dict.fromkeys(after)), names, aside)


def _worded(connection: psycopg.Connection, each: Dependant, *, change: bool) -> str:
    if each.unparsed and change:
        return f"{each.name}. Its body is text: nobody knows if it suits the new columns"
    if each.kind != "materialised view":
        return each.name
    row = connection.execute(
        "SELECT pg_size_pretty(pg_total_relation_size(%s::oid::regclass))", (each.oid,)
    ).fetchone()
    assert row is not None
    return f"{each.name}, populated again ({row[0]} now): readers wait for that in the switch"


def _made_again(connection: psycopg.Connection, each: Dependant, number: int) -> _Statements:
    suffix = f"__replaced_{number}"
    name = connection.execute(
        "SELECT relname FROM pg_class WHERE oid = %(oid)s AND %(table)s "
        "UNION ALL SELECT proname FROM pg_proc WHERE oid = %(oid)s AND NOT %(table)s",
        {"oid": each.oid, "table": each.kind == "materialised view"},
    ).fetchone()
    assert name is not None
    done = _statements(connection, _MADE_AGAIN[each.kind], each.oid, shortened(name[0], suffix))
    if each.kind == "materialised view":
        done.after += grant_statements(connection, each.oid, each.relation_name)
        rows = connection.execute(_SQL["owner_of_relation"], {"oid": each.oid}).fetchall()
        done.after += [row[0] for row in rows]
    return done


def _statements(
    connection: psycopg.Connection, name: str, oid: int, aside: str | None = None
) -> _Statements:
    row = connection.execute(_SQL[name], {"oid": oid, "aside": aside}).fetchone()
    assert row is not None
    return _Statements(*(list(each) for each in row))
