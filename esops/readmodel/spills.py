"""Spills: first loads that have written the events to files, by partitions of the keys, and apply
them one partition after the other (esops/running/spill).

While partitions are applied, the rows of a version are those of no single position: its checkpoint
stays where the spill began, and the row here says which events are in the table beyond that. Nobody
may advance such a version without its spill. With the last partition the checkpoint moves, and the
row goes, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from esops.errors import Busy, Refused
from esops.events import Position
from esops.postgres.connection import connect, qualified, translated
from esops.postgres.sharding import shard_predicate
from esops.postgres.statements import statements
from esops.readmodel import checkpoints, migrations, registry
from esops.readmodel.checkpoints import TablesMoved
from esops.readmodel.registry import Version
from esops.readmodel.shards import shards_of

_SQL = statements(__package__, "spills")
_WHOLE = -1


class StaleSpill(Exception):
    """A spill must not be used any more; its row says why."""


@dataclass(frozen=True, slots=True)
class Spill:
    """What is recorded of a spill."""

    spill: str
    """Its own id, which the directory has as well."""
    shard: int | None
    host: str
    directory: str
    fingerprint: str | None
    """Of the code that made the keys, and so decided about the partitions."""
    fresh: bool
    """Whether nothing was in the table when it began."""
    until: Position | None
    """The position up to which it has all events; None while they are still being written."""
    partitions: int
    partition: int = 0
    """The first partition that is not wholly in the table."""
    done: int = 0
    """How many events of that partition are."""
    stale: str | None = None
    """Why it must not be used any more."""

    @property
    def applied(self) -> bool:
        """Whether any of its events are in the table."""
        return self.partition > 0 or self.done > 0


def spills_of(connection: psycopg.Connection, version: Version) -> list[Spill]:
    """The spills of a version: one, or one of each shard, or none."""
    if not migrations.has(connection, "spills"):
        return []
    rows = connection.execute(_SQL["spills"], (version.projection, version.version)).fetchall()
    return [
        Spill(
            spill,
            None if shard == _WHOLE else shard,
            host,
            directory,
            fingerprint,
            fresh,
            None if until is None else Position.parse(until),
            *rest,
        )
        for spill, shard, host, directory, fingerprint, fresh, until, *rest in rows
    ]


def spill_of(connection: psycopg.Connection, version: Version, shard: int | None) -> Spill | None:
    """The spill of a version, or of one of its shards."""
    return next((each for each in spills_of(connection, version) if each.shard == shard), None)


def known(connection: psycopg.Connection) -> set[str]:
    """The ids of all spills that are recorded in this database."""
    return {row[0] for row in connection.execute(_SQL["known"]).fetchall()}


def begin(connection: psycopg.Connection, version: Version, spill: Spill) -> None:
    """Record a spill, before its directory is made."""
    connection.execute(
        _SQL["begin"],
        (
            version.projection,
            version.version,
            _WHOLE if spill.shard is None else spill.shard,
            spill.spill,
            spill.host,
            spill.directory,
            spill.fingerprint,
            spill.fresh,
            spill.partitions,
        ),
    )


def complete(connection: psycopg.Connection, spill: Spill, until: Position) -> Spill:
    """Record that all events up to a position are in the files. Raises StaleSpill."""
    if connection.execute(_SQL["complete"], (str(until), spill.spill)).rowcount != 1:
        raise StaleSpill
    return replace(spill, until=until)


def advance(
    connection: psycopg.Connection, version: Version, spill: Spill, after: Spill, events: int
) -> None:
    """Record what is in the table, in the transaction that writes it: `spill` becomes `after`.

    The checkpoint's row is locked first, as by everybody who writes rows, and stays where it is.
    Raises Busy where somebody else moved it, TablesMoved, and StaleSpill.
    """
    values = {
        "events": events,
        "projection": version.projection,
        "version": version.version,
        "position": None if version.position is None else str(version.position),
        "tables": Jsonb(dict(version.tables)),
        "shard": spill.shard,
    }
    add = "add_events" if spill.shard is None else "add_shard_events"
    if connection.execute(_SQL[add], values).rowcount != 1:
        now = registry.version(connection, version.projection, version.version)
        if now.tables != version.tables and now.state == version.state:
            raise TablesMoved
        raise Busy(
            f"another process moved the checkpoint of {version.projection} v{version.version}, or "
            "dropped it"
        )
    moved = {
        "spill": spill.spill,
        "partition": after.partition,
        "done": after.done,
        "old_partition": spill.partition,
        "old_done": spill.done,
    }
    if connection.execute(_SQL["advance"], moved).rowcount != 1:
        raise StaleSpill


def end(connection: psycopg.Connection, spill: Spill) -> None:
    """Drop the row of a spill that is applied, in the transaction that moves the checkpoint.

    Raises StaleSpill.
    """
    if connection.execute(_SQL["end"], (spill.spill,)).rowcount != 1:
        raise StaleSpill


def is_without(connection: psycopg.Connection, version: Version) -> bool:
    """Whether the load of a version has begun again to do without a spill."""
    found = connection.execute(_SQL["is_without"], (version.projection, version.version))
    return found.fetchone() is not None


def drop(connection: psycopg.Connection, spill: Spill) -> None:
    """Drop the row of a spill of which nothing is in the table."""
    connection.execute(_SQL["drop"], (spill.spill,))


class StaleDirectory(NamedTuple):
    """Where files are that nobody may use any more."""

    spill: str
    host: str
    directory: str
    projection: str


def outdate(databases: Iterable[str], store: str, reason: str) -> list[StaleDirectory]:
    """Mark the spills of all versions of a store: its events are not what was written to the files
    any more. `databases` are the DSNs of the read models. Returns where the files are.
    """
    found: list[StaleDirectory] = []
    for dsn in databases:
        with translated(), connect(dsn, "spills") as connection:
            if migrations.has(connection, "spills"):
                rows = connection.execute(_SQL["outdate"], (reason, store))
                found += [StaleDirectory(*row) for row in rows.fetchall()]
    return found


def start_again(
    connection: psycopg.Connection,
    version: Version,
    shard: tuple[int, int] | None,
    stream_column: str,
    *,
    unspilled: bool = False,
) -> None:
    """Empty the tables of a version that is being built, and set its checkpoint before all events,
    in one transaction; of a shard, only its rows and its own checkpoint. `unspilled`: its rebuild
    does without a spill from now on.

    `stream_column` is the column of the key by which shards are split. Raises Refused where the
    version is not being built any more, or where nothing distinguishes the shard's rows.
    """
    with connection.transaction():
        now = registry.hold(connection, version, ("building",))
        if unspilled:
            connection.execute(_SQL["without"], (version.projection, version.version))
        if shard is None:
            names = sql.SQL(", ").join(qualified(*physical) for physical in now.tables.values())
            connection.execute(sql.SQL("TRUNCATE {}").format(names))
            checkpoints.reset(connection, now, now.fingerprint or "")
        else:
            _start_shard_again(connection, now, shard, stream_column)


def _start_shard_again(
    connection: psycopg.Connection, version: Version, shard: tuple[int, int], stream_column: str
) -> None:
    number, of = shard
    key = (version.projection, version.version)
    written = next(each.rows for each in shards_of(connection, version) if each.number == number)
    mine = shard_predicate(sql.Identifier(stream_column), number, of)
    table = qualified(*version.table)
    deleted = connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(table, mine)).rowcount
    if deleted != written:
        raise Refused(
            f"the rows of shard {number} of {version.projection} v{version.version} cannot be told "
            f"from those of others: {deleted} by their keys, {written} were written",
            hint=f"Drop this rebuild with `esops rebuild {version.projection} --blue-green "
            "--abort`, and start it again.",
        )
    connection.execute(
        sql.SQL(
            "DELETE FROM esops.dead_letters WHERE projection = {} AND version = {} AND {}"
        ).format(*key, shard_predicate(sql.Identifier("stream"), number, of))
    )
    connection.execute(_SQL["reset_shard"], (*key, number))
    found = spill_of(connection, version, number)
    if found is not None:
        drop(connection, found)
