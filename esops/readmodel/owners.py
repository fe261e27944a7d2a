"""To which versions tables and views belong: one relation is of one projection.

Two projections that write into one table, or point one view at their tables, make wrong rows and
notice nothing. So it is looked at in every plan, again when a version is entered, before a version
is followed and before one is dropped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.postgres.statements import statements

Relation = tuple[str, str]
"""Schema and name of a table or a view."""
_SQL = statements(__package__, "owners")


@dataclass(frozen=True, slots=True)
class Owner:
    """A version of another projection, and the relation that belongs to it."""

    projection: str
    version: int
    state: str
    relation: Relation

    def __str__(self) -> str:
        return f"v{self.version} of {self.projection} ({self.state})"


def relations_of(tables: Mapping[str, Relation]) -> set[Relation]:
    """The tables of a version, and the names that its readers use."""
    return {*tables.values(), *((schema, name) for name, (schema, _) in tables.items())}


def others(
    connection: psycopg.Connection, projection: str, relations: Collection[Relation]
) -> list[Owner]:
    """The live versions of other projections to which any of the relations belongs."""
    values = {
        "projection": projection,
        "schemas": [schema for schema, _ in relations],
        "names": [name for _, name in relations],
    }
    rows = connection.execute(_SQL["others"], values).fetchall()
    return [Owner(name, number, state, (where, what)) for name, number, state, where, what in rows]


def claim(connection: psycopg.Connection, projection: str, tables: Mapping[str, Relation]) -> None:
    """Refuse tables of another projection, in the transaction that enters a version with them.

    Two processes that enter versions do it one after the other. Raises as `check` does.
    """
    connection.execute(_SQL["one_after_the_other"])
    check(connection, projection, relations_of(tables))


def check(connection: psycopg.Connection, projection: str, relations: Collection[Relation]) -> None:
    """Raises Refused where a relation belongs to a version of another projection."""
    for owner in others(connection, projection, relations):
        raise Refused(
            f"{'.'.join(owner.relation)} belongs to {owner}, as the registry has it, and not to "
            f"{projection}",
            hint=f"{remedy(owner.projection, projection)}. If both are meant: give {projection} "
            "tables of its own.",
        )


def check_alone(
    connection: psycopg.Connection, projection: str, version: int, tables: Mapping[str, Relation]
) -> None:
    """Raises Refused where a version shares a table or a name with one of another projection, as an
    older esops could leave them.
    """
    for owner in others(connection, projection, relations_of(tables)):
        raise Refused(
            f"{'.'.join(owner.relation)} is of v{version} of {projection} and of {owner} as well",
            hint="One of them is wrong: `esops doctor` has the statement that removes it from the "
            "registry.",
        )


def forget_statement(projection: str, version: int) -> str:
    """The statement that removes a version from the registry, and leaves its tables."""
    name = sql.Literal(projection).as_string(None)
    return (
        f"UPDATE esops.versions SET state = 'aborted' WHERE projection = {name} AND version = "
        f"{version};"
    )


def remedy(former: str, name: str) -> str:
    """What to do about a projection that has another name in the registry."""
    return f"If esops.toml has renamed {former}: esops projection rename {former} {name}"
