"""Shards: the checkpoints of several processes that load one version together.

Each process has a share of the keys and a row here that moves like a version's checkpoint. When all
have reached the same position, their rows become the version's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import Busy, Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.readmodel.marks import keep_mark
from esops.readmodel.registry import Version, read_position
from esops.readmodel.shape import changing_defaults
from esops.readmodel.types import wider
from esops.stores.parts import Mark

_SQL = statements(__package__, "shards")
LATE = ""
"""Stands among a shard's types, as no column can, where its rows have shown columns or types late.
"""


@dataclass(frozen=True, slots=True)
class Shard:
    """How far one of the processes is."""

    number: int
    of: int
    until: Position
    """The position at which the load ends, the same for all shards."""
    position: Position | None
    events: int
    rows: int
    value_types: Mapping[str, str]


def shards_of(connection: psycopg.Connection, version: Version) -> list[Shard]:
    """The shards of a version, by number; none where one process loads it, or it is loaded."""
    if not migrations.has(connection, "shards"):
        return []
    rows = connection.execute(_SQL["shards"], (version.projection, version.version)).fetchall()
    return [
        Shard(
            number,
            of,
            Position.parse(until),
            None if position is None else Position.parse(position),
            events,
            count,
            types,
        )
        for number, of, until, position, events, count, types in rows
    ]


def unlike_one_load(shards: Sequence[Shard]) -> str | None:
    """Why rows of these shards may differ from those of a load in one; None where they do not.

    A fold sees the columns and types that rows have shown so far: those of its own shard, and in a
    load in one those of all. These are the same where each shard's rows have shown the same from
    the first on.
    """
    types: dict[str, str] = {}
    for each in shards:
        if LATE in each.value_types:
            return "rows have columns, or types of values, that earlier rows had not"
        for name, kind in each.value_types.items():
            if types.setdefault(name, kind) != kind and "None" not in {types[name], kind}:
                return f"column {name!r} has values of several types"
            if kind != "None":
                types[name] = kind
    with_rows = [each for each in shards if each.value_types]
    if any(each.value_types.keys() != types.keys() for each in with_rows):
        return "some rows lack columns that others have"
    return None


def drop_shards(connection: psycopg.Connection, version: Version) -> None:
    """Forget the shards of a version, in the transaction that removes their rows."""
    connection.execute(_SQL["delete"], (version.projection, version.version))


def as_shard(connection: psycopg.Connection, version: Version, number: int) -> Version:
    """The version as one of its shards sees it: with the shard's own checkpoint and counts.

    Raises Busy where there is no such shard any more, as after an abort.
    """
    found = next((each for each in shards_of(connection, version) if each.number == number), None)
    if found is None:
        raise Busy(f"{version.projection} v{version.version} has no shard {number} any more")
    return replace(
        version,
        position=found.position,
        events=found.events,
        rows=found.rows,
        value_types=found.value_types,
    )


def create_shards(
    connection: psycopg.Connection,
    version: Version,
    of: int,
    until: Position,
    mark: Mark | None = None,
) -> None:
    """Start a load by `of` processes, all up to one position.

    `mark` is the store's at that position: it tells the log for all of them.
    """
    with connection.transaction():
        if mark is not None:
            keep_mark(connection, version, until, mark)
        for number in range(of):
            connection.execute(
                _SQL["create"], (version.projection, version.version, number, of, str(until))
            )


def move_shard(
    connection: psycopg.Connection,
    version: Version,
    number: int,
    *,
    old: Position | None,
    new: Position,
    events: int,
) -> None:
    """Move a shard's checkpoint from `old` to `new`, in the transaction that writes the rows.

    Raises Busy where the checkpoint is not at `old`.
    """
    moved = connection.execute(
        _SQL["move"],
        {
            "new": str(new),
            "old": None if old is None else str(old),
            "events": events,
            "projection": version.projection,
            "version": version.version,
            "shard": number,
        },
    ).rowcount
    if moved != 1:
        raise Busy(
            f"another process moved the checkpoint of shard {number} of {version.projection} "
            f"v{version.version}"
        )


def add_shard_rows(
    connection: psycopg.Connection,
    version: Version,
    number: int,
    change: int,
    value_types: Mapping[str, str],
) -> None:
    """Add to a shard's count of rows, and keep the Python types of its columns, in the transaction
    that writes the rows.
    """
    connection.execute(
        _SQL["add_rows"],
        (change, Jsonb(dict(value_types)), version.projection, version.version, number),
    )


def finish_range(
    connection: psycopg.Connection, version: Version, shard: Shard, built: Version
) -> None:
    """Record that a shard's rows in the version are those of `built`, where they were made."""
    connection.execute(
        _SQL["finish_range"],
        (
            built.events,
            built.rows or 0,
            Jsonb(dict(built.value_types)),
            version.projection,
            version.version,
            shard.number,
        ),
    )
    moved = (version.version, version.projection, built.version)
    connection.execute(_SQL["move_dead_letters"], moved)


def merge_shards(connection: psycopg.Connection, version: Version, until: Position) -> None:
    """Make the shards' checkpoints the version's own, once all are at `until`.

    Does nothing where it was done already, as after an answer that was lost. Raises Busy where a
    shard is not at `until`.
    """
    with connection.transaction():
        found = shards_of(connection, version)
        if not found and read_position(connection, version.projection, version.version) == until:
            return
        if not found or any(each.position != until for each in found):
            raise Busy(f"not all shards of {version.projection} v{version.version} are at {until}")
        # Each process has kept the types that it wrote; the version needs the widest of each
        # column.
        types: dict[str, str] = {}
        for each in found:
            for name, kind in each.value_types.items():
                if name != LATE:
                    types[name] = wider(types.get(name), kind)
        if version.state == "building":  # in place it is too late: the rows are there
            _check_defaults(connection, version, found, types)
        moved = connection.execute(
            _SQL["merge"],
            (
                str(until),
                sum(each.events for each in found),
                sum(each.rows for each in found),
                Jsonb(types),
                version.fingerprint,
                version.projection,
                version.version,
            ),
        ).rowcount
        if moved != 1:
            raise Busy(
                f"another process moved the checkpoint of {version.projection} v{version.version}"
            )
        connection.execute(_SQL["delete"], (version.projection, version.version))


def _check_defaults(
    connection: psycopg.Connection,
    version: Version,
    shards: Sequence[Shard],
    types: Mapping[str, str],
) -> None:
    """Raises Refused where only some shards have rows with a column whose default is not the same
    for all rows: one process would have refused such a row.
    """
    missing = {
        name for name in types for each in shards if each.rows and name not in each.value_types
    }
    if not missing:
        return
    table = catalog.find_table(connection, *version.table)
    assert table is not None
    changing = changing_defaults(connection, table)
    for name in sorted(missing & changing.keys()):
        raise Refused(
            f"some rows of {version.projection} have column {name!r}, and others lack it, and its "
            f"default ({changing[name]}) is not the same for all rows",
            hint="Change the projection: write it in each row. Then drop this rebuild with "
            "--abort, and start it again.",
        )
