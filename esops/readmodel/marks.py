"""Marks: what tells a store's log, at a checkpoint, from any other log.

A store that can be restored from a backup, or replaced by another one at the same address, may have
other events at the same positions. The store makes a mark at a checkpoint and recognises it later;
here it is only kept, with the position that it belongs to.
"""

from __future__ import annotations

import psycopg
from psycopg.types.json import Jsonb

from esops.events import Position
from esops.readmodel.registry import Version
from esops.stores.parts import Mark


def keep_mark(
    connection: psycopg.Connection, version: Version, position: Position, mark: Mark
) -> None:
    """Keep a mark, in the transaction that moves the version's checkpoint to its position."""
    connection.execute(
        "INSERT INTO esops.marks (projection, version, position, mark) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (projection, version) "
        "DO UPDATE SET position = EXCLUDED.position, mark = EXCLUDED.mark",
        (version.projection, version.version, str(position), Jsonb(dict(mark))),
    )


def mark_of(connection: psycopg.Connection, version: Version) -> Mark | None:
    """The mark at a version's checkpoint; None where none was kept for this position."""
    position = None if version.position is None else str(version.position)
    row = connection.execute(
        "SELECT mark FROM esops.marks WHERE projection = %s AND version = %s AND position = %s",
        (version.projection, version.version, position),
    ).fetchone()
    return None if row is None else row[0]
