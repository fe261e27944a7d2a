"""What the types of a table's columns are made of: elements, fields, bounds, and what is below a
domain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import psycopg

from esops.errors import Refused
from esops.postgres.statements import statements

_SQL = statements(__package__, "types")

TypeKind = Literal["scalar", "array", "composite", "range", "multirange"]
_KINDS: Mapping[str, TypeKind] = {
    "a": "array",
    "c": "composite",
    "r": "range",
    "m": "multirange",
}


@dataclass(frozen=True, slots=True)
class TypeTree:
    """A type, as far down as it is made of others."""

    name: str
    """The name of the type, below all domains; anyenum for an enum, and empty for another one that
    does not come with Postgres.
    """
    kind: TypeKind
    parts: tuple[tuple[str, TypeTree], ...] = ()
    """The fields of a composite type by name; else the one type that it consists of."""
    modifier: int = -1
    """As in pg_type.typtypmod: -1 for a type without one, such as char without a length."""
    below: str | None = None
    """Of a domain: the type that it is made of in the end, as SQL."""


@dataclass(frozen=True, slots=True)
class TypedColumn:
    """The type of a column, as it is made and as in DDL, and the oid of its collation, 0 for a type
    without one.
    """

    tree: TypeTree
    type: str
    collation: int


@dataclass(frozen=True, slots=True)
class _Type:
    name: str
    kind: str
    below: str
    modifier: int
    names: tuple[str, ...]
    parts: tuple[int, ...]


def types_of(connection: psycopg.Connection, oid: int) -> Mapping[str, TypedColumn]:
    """The types of the columns of the table with this oid, by the columns' names.

    Raises Refused where the table changes while it is read.
    """
    columns = connection.execute(_SQL["columns"], {"table": oid}).fetchall()
    types = _all_types(connection, {each for _, each, *_ in columns})
    return {
        name: TypedColumn(_tree(types, each, modifier), type, collation)
        for name, each, modifier, type, collation in columns
    }


def _all_types(connection: psycopg.Connection, of: Collection[int]) -> dict[int, _Type]:
    """These types and all that they are made of, by their oids. Raises Refused as `types_of`."""
    found: dict[int, _Type] = {}
    wanted = set(of)
    while wanted:
        for each, name, kind, below, modifier, names, parts in connection.execute(
            _SQL["types"], {"types": [*wanted]}
        ):
            found[each] = _Type(name, kind, below, modifier, tuple(names), tuple(parts))
        if not found.keys() >= wanted:
            raise Refused("a table was changed while its columns were read", hint="Try again.")
        wanted = {part for each in wanted for part in found[each].parts} - found.keys()
    return found


def _tree(types: Mapping[int, _Type], oid: int, modifier: int = -1) -> TypeTree:
    found = types[oid]
    if found.kind == "d":
        base = _tree(types, found.parts[0], found.modifier)
        return TypeTree(base.name, base.kind, base.parts, base.modifier, base.below or found.below)
    kind = _KINDS.get(found.kind, "scalar")
    if kind == "scalar":
        return TypeTree(found.name, kind, modifier=modifier)
    names = found.names or ("",)
    parts = zip(names, (_tree(types, part) for part in found.parts), strict=True)
    return TypeTree(found.name, kind, tuple(parts) if found.parts else (), modifier)
