"""What a table has, part by part: columns, indexes, checks, foreign keys and all the rest.

A version is made like the table that serves at that moment. What that table gets or loses until the
switch, as by a deployment that adds a column, the version does not have; the comparison of both
moments finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg

from esops.postgres import publications
from esops.postgres.statements import statements
from esops.readmodel.dependants import qualified_names

_SQL = statements(__package__, "composition")
_NOT_OURS = "publication of another role"
TAKEN_WITH_NAME = frozenset({"trigger", "row security", "policy", "publication"})
"""The kinds that a switch by rename gives to the other table as they are at that moment."""


@dataclass(frozen=True, slots=True, order=True)
class TablePart:
    """One part of a table. `text` says how it is, without its name and that of the table."""

    kind: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


Composition = Sequence[TablePart]


def composition(connection: psycopg.Connection, oid: int) -> list[TablePart]:
    """The parts of a table and of its partitions, as the catalogue is now."""
    with qualified_names(connection):
        rows = connection.execute(_SQL["plain_composition"], {"oid": oid}).fetchall()
        if not any(kind == "more" for kind, _, _ in rows):
            return [TablePart(*row) for row in rows]
        rows = connection.execute(_SQL["composition"], {"oid": oid}).fetchall()
        named = publications.of_table(connection, oid, "")
    return [
        *(TablePart(*row) for row in rows),
        *(
            TablePart("publication" if each.ours else _NOT_OURS, each.publication, each.add)
            for each in named
        ),
    ]


def changes(
    then: Composition, now: Composition, other: Composition, without: Collection[str] = ()
) -> list[str]:
    """What has changed since `then`, each in words, except what the `other` table has, or lacks, by
    now as well. Kinds in `without` are left aside.
    """
    was, is_, gets = ({(each.kind, each.text) for each in parts} for parts in (then, now, other))
    came = [each for each in now if (each.kind, each.text) not in was | gets]
    went = [each for each in then if (each.kind, each.text) in gets - is_]
    names = {(each.kind, each.name) for each in then}
    said = {
        each: "has changed" if (each.kind, each.name) in names else "is new" for each in came
    } | dict.fromkeys(went, "has gone")
    words = {str(each): how for each, how in reversed(said.items()) if each.kind not in without}
    return [f"{each} {how}" for each, how in sorted(words.items())]
