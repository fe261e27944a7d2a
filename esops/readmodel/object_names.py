"""The names of what belongs to a table: indexes, constraints, sequences, statistics, partitions.

They share one name space with each other and with those of other versions. With `switch =
"rename"`, applications and tools that compare schemas (Marten, EF Core, Alembic) look for them by
name. So what serves bears the names without a version, and what stands by the same names with its
version: `pkey_cart` serves, `pkey_cart__v2` stands by. Names of triggers, policies and of checks
belong to their table alone, and never need to change.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.postgres.catalog import Table
from esops.postgres.connection import qualified
from esops.postgres.statements import statements
from esops.readmodel.names import physical_name, shortened

_SQL = statements(__package__, "object_names")


@dataclass(frozen=True, slots=True)
class Side:
    """A table of a version, under the name that it has now."""

    table: Table
    name: str
    """The name that the application reads."""
    version: int
    made_by_ddl: frozenset[str] = frozenset()
    """The keys and indexes that a user's DDL made for it, as far as it is known: plain names."""


@dataclass(frozen=True, slots=True)
class _Object:
    kind: str
    """As in ALTER: TABLE, INDEX, SEQUENCE, STATISTICS."""
    schema: str
    name: str
    definition: str
    """What it is, without any name in it."""
    plain: str
    """Its name without the version."""

    @property
    def place(self) -> tuple[str, str]:
        """Its schema and name."""
        return self.schema, self.name

    def at(self, name: str) -> tuple[bool, str, str]:
        """A name in the name space that it is in; statistics have one of their own."""
        return (self.kind == "STATISTICS", self.schema, name)


@dataclass(frozen=True, slots=True)
class Counterpart:
    """What two tables have alike: of blue and of green, each by its schema and name."""

    kind: str
    blue: tuple[str, str]
    green: tuple[str, str]


def counterparts(connection: psycopg.Connection, blue: Table, green: Table) -> list[Counterpart]:
    """What belongs to two tables and is the same in both, but for its name."""
    left = _objects(connection, Side(green, green.name, 0))
    found: list[Counterpart] = []
    for each in _objects(connection, Side(blue, blue.name, 0)):
        same = next(
            (o for o in left if (o.kind, o.definition) == (each.kind, each.definition)), None
        )
        if same is not None:
            left.remove(same)
            found.append(Counterpart(each.kind, each.place, same.place))
    return found


def names_for_green(
    connection: psycopg.Connection, blue: Side | None, green: Side, *, like: bool, renaming: bool
) -> list[str]:
    """The statements that give what belongs to a new table the names of its counterparts in blue,
    with green's version; what has another name of its own gets the version as well.

    `like`: Postgres chose the names, from blue's columns. Without `renaming`, names that begin with
    the table's stay.
    """
    found = _objects(connection, green)
    wanted = _wanted(
        [] if blue is None else _objects(connection, blue), found, green.version, like=like
    )
    return _renames(
        connection,
        [
            (each, physical_name(plain, green.version))
            for each, plain in zip(found, wanted, strict=True)
            if renaming or each.name == each.plain or plain != each.plain
        ],
    )


def aside(
    connection: psycopg.Connection, sides: Sequence[Side], text: str
) -> tuple[list[str], list[str]]:
    """The statements that move the names which a user's DDL mentions out of its way, and those that
    give them back: names of indexes and statistics of the tables that serve.

    Neither keeps readers or writers waiting. What this role may not rename stays.
    """
    away: list[str] = []
    back: list[str] = []
    for side in sides:
        mine = connection.execute("SELECT pg_has_role(%s, 'USAGE')", (side.table.owner,)).fetchone()
        for each in _objects(connection, side) if mine and mine[0] else ():
            mentioned = re.search(rf"(?<!\w){re.escape(each.name)}(?!\w)", text, re.IGNORECASE)
            if each.kind not in ("INDEX", "STATISTICS") or not mentioned:
                continue
            there = shortened(each.name, "__aside")
            for done, old, new in ((away, each.name, there), (back, there, each.name)):
                name = qualified(each.schema, old).as_string(connection)
                new_name = sql.Identifier(new).as_string(connection)
                done.append(f"ALTER {each.kind} {name} RENAME TO {new_name}")
    return away, back


def exchange(connection: psycopg.Connection, source: Side | None, target: Side) -> list[str]:
    """The statements that give the target's objects the names of what serves, and the source's
    those of what stands by.
    """
    before = [] if source is None else _objects(connection, source)
    here = _objects(connection, target)
    wanted = _wanted(before, here, target.version, like=False)
    served = [each for each in before if each.name == each.plain]
    away = [
        (each, physical_name(each.name, source.version)) for each in served if source is not None
    ]
    return [
        *_renames(connection, away, must_move=True),
        *_renames(
            connection,
            list(zip(here, wanted, strict=True)),
            freed={each.at(each.name) for each in served},
        ),
    ]


def away(connection: psycopg.Connection, source: Side) -> list[str]:
    """The statements that give the objects of what serves the names of what stands by."""
    served = [each for each in _objects(connection, source) if each.name == each.plain]
    named = [(each, physical_name(each.name, source.version)) for each in served]
    return _renames(connection, named, must_move=True)


def advance_identities(connection: psycopg.Connection, source: int, target: int) -> list[str]:
    """The statements by which the target's identity columns continue where those of the source are.

    `source` and `target` are the tables' oids.
    """
    rows = connection.execute(_SQL["identities"], {"source": source, "target": target}).fetchall()
    return [
        (
            f"SELECT setval('{_quoted(here)}', s.last_value, s.is_called) FROM {there} s, {here} t "
            "WHERE (s.last_value, s.is_called) > (t.last_value, t.is_called)"
        )
        for there, here in rows
    ]


def own_sequences(
    connection: psycopg.Connection, source: int, target: int, serving: str
) -> list[str]:
    """The statements by which what serves owns the sequences that its serial columns draw from.

    `source` and `target` are the tables' oids, `serving` is the quoted name that the target has by
    then.
    """
    rows = connection.execute(_SQL["serials"], {"source": source, "target": target}).fetchall()
    return [f"ALTER SEQUENCE {sequence} OWNED BY {serving}.{column}" for sequence, column in rows]


def _quoted(name: str) -> str:
    return name.replace("'", "''")


def _objects(connection: psycopg.Connection, side: Side) -> list[_Object]:
    oid = {"oid": side.table.oid}
    rows = connection.execute(_SQL["plain_objects"], oid).fetchall()
    if any(kind == "MORE" for kind, *_ in rows):
        rows = connection.execute(_SQL["objects"], oid).fetchall()
    return [
        _Object(kind, schema, name, definition, plain_name(name, side))
        for kind, schema, name, definition in rows
    ]


def plain_name(name: str, side: Side) -> str:
    """A name without the version: `pkey_cart__v2` or, as Postgres chose it, `cart__v2_pkey`."""
    suffix, physical = f"__v{side.version}", physical_name(side.name, side.version)
    if name.endswith(suffix):
        return name.removesuffix(suffix)
    if name.startswith(physical + "_"):
        return side.name + name.removeprefix(physical)
    # Those of a partition begin with the partition's name.
    return name.replace(f"{suffix}_", "_", 1)


def _wanted(
    serving: Sequence[_Object], found: Sequence[_Object], version: int, *, like: bool
) -> list[str]:
    """The plain name of each: that of the counterpart, found by its name or else by what it is."""
    others = list(serving)
    taken: set[tuple[bool, str, str]] = set()
    result: list[str] = []
    for each in found:
        counterpart: _Object | None = None
        if like or each.name != each.plain:
            alike = [other for other in others if other.kind == each.kind]
            by_name = (o for o in alike if physical_name(o.plain, version) == each.name)
            counterpart = next(by_name, None)
            # A name that esops gave says what the plain one is, unless it had to be shortened.
            if counterpart is None and physical_name(each.plain, version) != each.name:
                counterpart = next((o for o in alike if o.definition == each.definition), None)
        plain = each.plain if counterpart is None else counterpart.plain
        if counterpart is not None:
            others.remove(counterpart)
        result.append(each.name if each.at(plain) in taken else plain)
        taken.add(each.at(plain))
    return result


def _renames(
    connection: psycopg.Connection,
    pairs: Sequence[tuple[_Object, str]],
    *,
    freed: Collection[tuple[bool, str, str]] = (),
    must_move: bool = False,
) -> list[str]:
    """The statements that rename objects. One whose new name is somebody else's keeps its own, or
    gets another one where it has to make room.
    """
    done: list[str] = []
    for each, wanted in pairs:
        new, number = wanted, 0
        while new != each.name and each.at(new) not in freed and _is_taken(connection, each, new):
            number += 1
            new = physical_name(f"{wanted}_{number}", 0) if must_move else each.name
        if new != each.name:
            done.append(
                f"ALTER {each.kind} {qualified(each.schema, each.name).as_string(connection)} "
                f"RENAME TO {sql.Identifier(new).as_string(connection)}"
            )
    return done


def _is_taken(connection: psycopg.Connection, each: _Object, name: str) -> bool:
    row = connection.execute(
        _SQL["is_taken"], {"kind": each.kind, "schema": each.schema, "name": name}
    ).fetchone()
    return bool(row and row[0])
