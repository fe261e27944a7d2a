"""The fence of a version: who keeps rows in memory notices that others have written rows.

Rows are written beside the process that advances a version: made right by a heal, made again after
an erasure, with dead letters that are replayed. That process may have old ones in memory, and would
write them over the new ones with its next checkpoint. So whoever writes rows without moving the
checkpoint holds the version's row and raises its fence; the statement that moves the checkpoint
compares it. Where it differs nothing is written, and the process drops what it has in memory.

A process of an esops without fences compares nothing. It says nothing either: each session in which
versions are advanced shares one lock of the read model, and one that lacks it is unfenced.
"""

from __future__ import annotations

import psycopg

from esops.postgres.statements import statements
from esops.readmodel.locks import LockHolder

_SQL = statements(__package__, "fence")
_SHARED = "esops:fence"


class FenceRaised(Exception):
    """Rows of a version were written beside the process that advances it: what that has read of
    them before may be another row by now.
    """


def raise_fence(connection: psycopg.Connection, projection: str, version: int) -> None:
    """Note that rows of a version are written without moving its checkpoint, in the transaction
    that writes them and holds the version's row.
    """
    connection.execute(_SQL["raise"], (projection, version))


def read_fence(connection: psycopg.Connection, projection: str, version: int) -> int:
    """How often that was noted."""
    row = connection.execute(_SQL["read"], (projection, version)).fetchone()
    assert row is not None
    return int(row[0])


def say_fenced(connection: psycopg.Connection) -> None:
    """Say, for as long as this session lasts, that what is advanced in it compares the fence."""
    connection.execute(_SQL["say"], (_SHARED,))


def unfenced_holder(connection: psycopg.Connection, lock: str) -> LockHolder | None:
    """The session that holds a lock and does not say that it compares the fence."""
    row = connection.execute(_SQL["unfenced"], (_SHARED, lock)).fetchone()
    return None if row is None else LockHolder(*row)
