"""How the checkpoint of a version moves: forward with its rows, back, or away.

A checkpoint moves in the transaction that writes the rows, by compare-and-set: if another process
has moved it, the transaction fails and nothing is written. The row of the version is locked before
the rows are written. So a switch that holds the row sees tables that do not change, without any
lock on the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import Busy
from esops.events import Position
from esops.postgres.statements import statements
from esops.readmodel import erased, marks, registry
from esops.readmodel.fence import FenceRaised
from esops.readmodel.registry import Version

_SQL = statements(__package__, "checkpoints")


class TablesMoved(Exception):
    """A version's tables have other names now: a switch renamed them."""


def move_checkpoint(
    connection: psycopg.Connection,
    at: Version,
    old: Position | None,
    new: Position,
    events: int,
    applied: Mapping[str, Any] | None = None,
) -> None:
    """Move a checkpoint from `old` to `new`, in the transaction that writes the rows, and hold it
    until the transaction ends.

    `applied` is the last event that was applied, where any was (see Version).

    Raises TablesMoved where the tables have other names now: what was read by the old names may
    belong to another version; FenceRaised where others wrote rows since `at` was read; and Busy
    where the checkpoint is not at `old`.
    """
    moved = connection.execute(
        _SQL["move_checkpoint"],
        {
            "new": str(new),
            "old": None if old is None else str(old),
            "events": events,
            "projection": at.projection,
            "version": at.version,
            "tables": Jsonb(dict(at.tables)),
            "fence": at.fence,
            "applied": None if applied is None else Jsonb(dict(applied)),
        },
    ).rowcount
    if moved == 1:
        return
    # Nothing was updated. Renamed tables are no conflict: the caller opens them again and repeats.
    now = registry.version(connection, at.projection, at.version)
    if now.tables != at.tables and now.position == old:
        raise TablesMoved
    if now.fence != at.fence and now.position == old and now.state in registry.LIVE_STATES:
        raise FenceRaised
    raise Busy(
        f"another process moved the checkpoint of {at.projection} v{at.version}, or retired it",
        hint=f"`esops projection show {at.projection}` shows which process works on it.",
    )


def clear_checkpoint(connection: psycopg.Connection, at: Version, lost: str) -> None:
    """Take the checkpoint and the fingerprint away where the rows are of events that the store does
    not have any more; `lost` says why.

    Nobody can follow such a version, and no one code has built it.
    """
    connection.execute(_SQL["clear_checkpoint"], (lost, at.projection, at.version))
    registry.forget_marks(connection, at.projection, at.version)


def set_aside(connection: psycopg.Connection, at: Version) -> dict[str, Any]:
    """Take the checkpoint and the fingerprint away while the rows are replaced range by range.

    Returns what `restore` needs, as JSON, while no row is replaced.
    """
    registry.lock_checkpoint(connection, at.projection, at.version)
    now = registry.version(connection, at.projection, at.version)
    mark = marks.newest_mark(connection, at)
    connection.execute(_SQL["clear_checkpoint"], (None, at.projection, at.version))
    return {
        "position": None if now.position is None else str(now.position),
        "events": now.events,
        "fingerprint": now.fingerprint,
        "applied": None if now.applied is None else dict(now.applied),
        "lost": now.lost,
        "mark": None if mark is None else [str(mark.position), dict(mark.mark)],
    }


def restore(connection: psycopg.Connection, at: Version, before: Mapping[str, Any]) -> None:
    """Restore what `set_aside` has returned. Raises Busy where the version has a checkpoint."""
    applied = None if before["applied"] is None else Jsonb(before["applied"])
    values = {**before, "applied": applied, "projection": at.projection, "version": at.version}
    if connection.execute(_SQL["restore"], values).rowcount != 1:
        raise Busy(f"another process moved the checkpoint of {at.projection} v{at.version}")
    connection.execute(_SQL["forget_newest_mark"], (at.projection, at.version))
    if before["mark"] is not None:
        position, mark = before["mark"]
        marks.keep_mark(connection, at, Position.parse(position), mark)


def forget_before(connection: psycopg.Connection, at: Version) -> None:
    """Forget what was noted of the rows from before, in the transaction that replaces the first of
    them: their events are read again, those that were skipped as well.
    """
    connection.execute(_SQL["forget_dead_letters"], (at.projection, at.version))
    connection.execute(_SQL["forget_older_marks"], (at.projection, at.version))


def set_back(connection: psycopg.Connection, at: Version, position: Position) -> None:
    """Set the checkpoint back to a position after which nothing was applied.

    Raises Busy where somebody else moved the checkpoint.
    """
    values = {
        "new": str(position),
        "old": str(at.position),
        "projection": at.projection,
        "version": at.version,
    }
    if connection.execute(_SQL["set_back"], values).rowcount != 1:
        raise Busy(f"another process moved the checkpoint of {at.projection} v{at.version}")
    registry.forget_marks(connection, at.projection, at.version)


def release(connection: psycopg.Connection, at: Version) -> None:
    """Record that the application keeps a version fresh from now on.

    Its checkpoint and its code are the application's then, and no longer known here.
    """
    connection.execute(_SQL["release"], (at.projection, at.version))
    registry.forget_marks(connection, at.projection, at.version)


def reset(connection: psycopg.Connection, at: Version, fingerprint: str) -> None:
    """Set the checkpoint before all events, in the transaction that empties the tables.

    `fingerprint` is that of the code that builds the version from now on.
    """
    connection.execute(_SQL["reset"], (fingerprint, at.projection, at.version))
    connection.execute(_SQL["forget_dead_letters"], (at.projection, at.version))
    erased.forget(connection, at.projection, at.version)
    registry.forget_marks(connection, at.projection, at.version)
    registry.forget_spills(connection, at.projection, at.version)
