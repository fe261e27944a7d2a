"""Materialised views that show the rows of the version that served before, until they are
refreshed.

A switch populates only those that it makes again. Where the relation under the name stays, or where
a view between them is replaced in its place, Postgres keeps the rows that they have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter

import psycopg

from esops.postgres.statements import statements
from esops.readmodel.dependants import (
    Dependant,
    Reference,
    dependants,
    qualified_names,
    references,
)

_SQL = statements(__package__, "stale")
_PASSED_ON = ("view", "materialised view", "function")


@dataclass(frozen=True, slots=True)
class Reading:
    """A populated materialised view that reads the read model, itself or through other objects."""

    relation: str
    """Its quoted name."""
    refresh: str
    """The statement that gives it the rows of what serves."""

    def __str__(self) -> str:
        return (
            f"materialised view {self.relation} shows the rows of the version that served before "
            f"the switch until somebody runs: {self.refresh}"
        )


def reading(connection: psycopg.Connection, relations: Sequence[int]) -> list[Reading]:
    """The materialised views that read any of these relations, in the order of refreshing.

    `relations` are oids. What a function with a text as its body reads is not known.
    """
    with qualified_names(connection):
        moved: dict[Reference, Reference] = {
            each: ("pg_class", oid) for oid in relations for each in references(connection, oid)
        }
        while True:
            found = {
                each.reference: each
                for each in dependants(connection, moved, relations)
                if each.kind in _PASSED_ON
            }
            new = [each for reference, each in found.items() if reference not in moved]
            if not new:
                break
            for each in new:
                moved.update(dict.fromkeys(_references(connection, each), each.reference))
        order = TopologicalSorter(
            {
                reference: {moved[used] for used, _ in each.uses} & (found.keys() - {reference})
                for reference, each in found.items()
            }
        )
        rows = [
            connection.execute(_SQL["refresh"], {"oid": oid}).fetchone()
            for _, oid in (each for each in order.static_order() if found[each].relation)
        ]
        return [Reading(*row) for row in rows if row is not None]


def left_stale(found: Sequence[Reading], populated: Collection[str]) -> list[str]:
    """Those that a switch does not populate, in words. `populated` has quoted names."""
    return [str(each) for each in found if each.relation not in populated]


def _references(connection: psycopg.Connection, each: Dependant) -> list[Reference]:
    if each.kind == "function":
        return [each.reference]
    return references(connection, each.oid)
