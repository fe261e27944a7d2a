"""What refers to a read model goes with it in the switch's own transaction.

Postgres binds views, functions, policies and the rest to a relation's identity. Where a switch puts
another relation under the name, they are bound to the new one: replaced in their place where that
is possible (views, policies, rules, functions by their body, default values), and made again where
it is not (materialised views, functions of the row type). Definitions come from the catalogue.
Whatever cannot be carried over is refused by name, with the statements to run before and after.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.connection import is_lost, qualified
from esops.postgres.grants import Change, Kind, default_rights, given_by_others, hand_over, rights
from esops.postgres.held import WHOLE, end_if_still
from esops.postgres.statements import statements
from esops.readmodel import described, in_place_of_view
from esops.readmodel.dependants import (
    REPLACED,
    Dependant,
    Reference,
    dependants,
    drop_replaced,
    qualified_names,
    references,
)
from esops.readmodel.names import ReadModelName, shortened
from esops.rebuild.left_behind import (
    IN_PLACE,
    Obstacle,
    Root,
    by_hand,
    columns_change,
    is_made_again,
    obstacle_of,
    refuse,
)

_SQL = statements(__package__, "carried")
_LOCKS = re.compile(r"^LOCK TABLE |^ALTER (MATERIALIZED )?VIEW .* OWNER TO ")
_MADE_AGAIN = {"materialised view": "materialised_view", "function": "moved_function"}
_AS_IN_ALTER: Mapping[str, tuple[str, Kind]] = {
    "materialised view": ("MATERIALIZED VIEW", "TABLE"),
    "function": ("ROUTINE", "ROUTINE"),
}


@dataclass(frozen=True, slots=True)
class Carried:
    """The statements before and after those that point the names at other relations."""

    before: Sequence[str] = ()
    after: Sequence[str] = ()
    names: Sequence[str] = ()
    """What is carried over, in words; materialised views with their size."""
    locks: Sequence[str] = ()
    """Those of `before` that only lock what is carried over."""
    root_locks: Sequence[str] = ()
    """The same for what stands under the names."""
    relations: Sequence[str] = ()
    """What is locked because it is carried over: quoted names."""
    tables: Sequence[int] = ()
    """The tables that stood under the names: nothing may refer to them afterwards."""
    lost: Sequence[str] = ()
    """What does not go with it, and who gives rights on it that somebody else gave: in words."""
    aside: Mapping[str, str] = field(default_factory=dict)
    """Views under the read model's names, and the names that they get until `after` drops them."""

    def notes(self) -> list[str]:
        """For a plan: what is carried over."""
        return [*(f"carried over by the switch: {name}" for name in self.names), *self.lost]

    def away(self, name: ReadModelName) -> str:
        """The statement that takes the view of that name out of the way."""
        view = name.identifier.as_string(None)
        if name.name not in self.aside:
            return f"DROP VIEW {view}"
        aside = qualified(name.schema, self.aside[name.name]).as_string(None).split(".")[-1]
        return f"ALTER VIEW {view} RENAME TO {aside}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """The statements of a switch, in order, what is carried over by some of them, and the names
    that come to stand for another relation.
    """

    statements: Sequence[str]
    carried: Carried
    roots: Sequence[Root] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    """What is carried over, that of it which is made again, in the order of making, and what of
    that can stay until nobody is using it any more.
    """

    found: Sequence[Dependant]
    again: Sequence[Dependant]
    stay: AbstractSet[Reference]


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
    for root in roots:
        if root.current.kind == "v" and not root.view:
            in_place_of_view.check(connection, root.name, root.current, root.target)
    with qualified_names(connection):
        every = _found(connection, roots)
        obstacles = [
            obstacle
            for each in every.found
            if (obstacle := obstacle_of(connection, roots, each)) is not None
        ]
        own, own_names = _own(connection, roots, obstacles)
        refuse(roots, obstacles)
        tables = [root.current.oid for root in roots if root.current.kind != "v"]
        if not every.found and not own:
            return Carried(tables=tables)
        return _carried(connection, roots, every, (own, own_names))


def populated(connection: psycopg.Connection, roots: Sequence[Root]) -> list[Obstacle]:
    """The materialised views that the switch would populate again, each as what stands against it
    where nobody may wait for that.
    """
    with qualified_names(connection):
        return [
            by_hand(connection, roots, each, "everybody would wait until it is populated again")
            for each in _found(connection, roots).again
            if each.kind == "materialised view"
        ]


def execute(connection: psycopg.Connection, prepare: Callable[[], Prepared]) -> list[str]:
    """Run the statements of a switch, in the transaction that the connection is in; returns them.

    Raises Refused with the statement that the server does not take, or where something refers to
    what served before by then; the transaction is over then.
    """
    drop_replaced(connection)
    prepared = prepare()
    if not prepared.statements:
        return []  # a program moves the readers, and may take its time
    # From here on readers wait; rows of materialised views may take their time.
    makes_rows = any("MATERIALIZED VIEW" in each for each in prepared.statements)
    end_if_still(connection, whole=None if makes_rows else WHOLE)
    if prepared.carried.locks:
        lock(connection, prepared.carried.locks, prepared.carried.root_locks)
        # What was read before it was locked may have been changed by then.
        prepared = prepare()
    run(connection, prepared.statements)
    tables = prepared.carried.tables
    with qualified_names(connection):
        old = [each for oid in tables for each in references(connection, oid)]
        left = dependants(connection, old, tables)
    if left:
        raise Refused(
            f"{', '.join(each.name for each in left)} came up during the switch and would stay "
            "with the old version",
            hint="Nothing was changed. Switch again: it is carried over then.",
        )
    return list(prepared.statements)


def lock(connection: psycopg.Connection, first: Sequence[str], then: Sequence[str]) -> None:
    """Lock everything at once, so that no reader holds one thing and waits for the next.

    A reader of a view locks the view first, so it comes first here. One that joins them the other
    way round would be in the way each time, so that the order changes from try to try.
    """
    order = [*first, *then]
    if random.random() < 0.5:  # noqa: S311 - guards nothing
        random.shuffle(order)
    connection.execute(";".join(order).encode())


def run(connection: psycopg.Connection, done: Sequence[str]) -> None:
    """Run statements of a switch. Raises Refused with the one that the server does not take."""
    for statement in done:
        try:
            connection.execute(statement.encode())
        except psycopg.OperationalError:
            raise
        except psycopg.DatabaseError as error:
            if is_lost(error):
                raise
            raise Refused(
                f"the switch failed at `{statement.splitlines()[0]}`: {str(error).splitlines()[0]}",
                hint="Nothing was changed. Fix what it says, then switch again.",
            ) from error


# -- what there is


def _found(connection: psycopg.Connection, roots: Sequence[Root]) -> _Found:
    """Everything to be carried over. What refers to something that is made again is, too."""
    oids = [root.current.oid for root in roots]
    moved: dict[Reference, Reference] = {
        reference: ("pg_class", oid) for oid in oids for reference in references(connection, oid)
    }
    while True:
        found = dependants(connection, moved, oids)
        again = {each.reference: each for each in found if is_made_again(each)}
        new = [each for reference, each in again.items() if reference not in moved]
        if not new:
            break
        for each in new:
            mine = [each.reference] if each.kind == "function" else references(connection, each.oid)
            moved.update(dict.fromkeys(mine, each.reference))
    order = TopologicalSorter(
        {
            reference: {moved[used] for used, _ in each.uses} & (again.keys() - {reference})
            for reference, each in again.items()
        }
    )
    in_order = [again[reference] for reference in order.static_order()]
    stay = {("pg_class", root.current.oid) for root in roots if root.current.kind != "v"}
    for each in in_order:
        if each.kind == "function" and all(moved[used] in stay for used, _ in each.uses):
            stay.add(each.reference)
    return _Found(found, in_order, stay)


# -- what the views have themselves


def _own(
    connection: psycopg.Connection, roots: Sequence[Root], obstacles: list[Obstacle]
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
                obstacles.append(Obstacle(name, "a table cannot have it", dropped, None))
            elif gone:
                why = f"it uses the column {gone[0]}, which is dropped"
                obstacles.append(Obstacle(name, why, dropped, None))
            else:
                done += made
                names.append(name)
    return done, names


# -- how it is done


def _carried(
    connection: psycopg.Connection,
    roots: Sequence[Root],
    every: _Found,
    own: tuple[Sequence[str], Sequence[str]],
) -> Carried:
    found = every.found
    made = [
        _made_again(connection, each, number, stays=each.reference in every.stay)
        for number, each in enumerate(every.again, 1)
    ]
    replaced = [
        _statements(connection, IN_PLACE[each.kind], each.oid)
        for each in found
        if not is_made_again(each)
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
    change = any(map(columns_change, roots))
    names = [*(_worded(connection, each, change=change) for each in found), *own[1]]
    before = list(dict.fromkeys(before))
    return Carried(
        before=before,
        after=after,
        names=names,
        locks=[each for each in before if _LOCKS.search(each)],
        root_locks=[_root_lock(connection, root) for root in roots],
        relations=[each.relation_name for each in found if each.relation],
        tables=[root.current.oid for root in roots if root.current.kind != "v"],
        lost=_lost(connection, every.again),
        aside=aside,
    )


def _lost(connection: psycopg.Connection, again: Sequence[Dependant]) -> list[str]:
    done: list[str] = []
    for each in again:
        given = given_by_others(connection, each.oid, _AS_IN_ALTER[each.kind][1])
        done += [f"on {each.name}, the owner gives the right {right}" for right in given]
        labels = connection.execute(_SQL["labels"], {"oid": each.oid, "kind": each.kind}).fetchall()
        lost = [f"security label of {row[0]}" for row in labels]
        if each.kind == "materialised view":
            lost += described.owners_lost(connection, each.oid)
        done += [f"not carried over from {each.name}: {one}" for one in lost]
    return done


def _root_lock(connection: psycopg.Connection, root: Root) -> str:
    name = root.name.identifier.as_string(connection)
    if root.current.kind != "v":
        return f"LOCK TABLE ONLY {name} IN ACCESS EXCLUSIVE MODE"
    # LOCK would lock the tables below as well; an owner that stays the same only locks the view.
    owner = sql.Identifier(root.current.owner).as_string(connection)
    return f"ALTER VIEW {name} OWNER TO {owner}"


def _worded(connection: psycopg.Connection, each: Dependant, *, change: bool) -> str:
    if each.unparsed and change:
        return f"{each.name}. Its body is text: nobody knows whether it suits the new columns"
    if each.kind != "materialised view":
        return each.name
    row = connection.execute(
        "SELECT pg_size_pretty(pg_total_relation_size(%s::oid::regclass))", (each.oid,)
    ).fetchone()
    assert row is not None
    return f"{each.name}, populated again ({row[0]} now): readers wait for that in the switch"


def _made_again(
    connection: psycopg.Connection, each: Dependant, number: int, *, stays: bool
) -> _Statements:
    suffix = f"__replaced_{number}"
    name = connection.execute(_SQL["name"], {"oid": each.oid, "kind": each.kind}).fetchone()
    assert name is not None
    parameters = {"aside": shortened(name[0], suffix), "replaced": REPLACED if stays else None}
    done = _statements(connection, _MADE_AGAIN[each.kind], each.oid, **parameters)
    what, kind = _AS_IN_ALTER[each.kind]
    change = Change(
        name[2], default_rights(connection, name[1], kind), rights(connection, each.oid, kind)
    )
    done.after += hand_over(connection, what, change)
    if each.kind == "materialised view":
        done.after[:0] = described.in_the_same_place(connection)
        indexes = described.indexes(connection, each.oid)
        for index in indexes.values():
            done.finish += index.statements(name[2], (name[1], index.name))
        for place, one in described.extended_statistics(connection, each.oid).items():
            done.finish += one.statements(place)
    return done


def _statements(
    connection: psycopg.Connection, name: str, oid: int, **parameters: str | None
) -> _Statements:
    row = connection.execute(_SQL[name], {"oid": oid, **parameters}).fetchone()
    assert row is not None
    return _Statements(*(list(each) for each in row))
