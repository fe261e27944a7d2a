"""Marks: what tells a store's log, at a checkpoint, from any other log.

A store that can be restored from a backup, or replaced by another one at the same address, may have
other events at the same positions. The store makes a mark at a position and recognises it later;
here it is only kept, with the position that it belongs to.

The newest mark of a version is at its checkpoint, or beyond it at the position that a process was
on its way to: whoever recognises that one recognises all before it. Some older marks are kept as
well, ever fewer the older they are, so that the last common position of two histories can be found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import AnotherLog, UnreadableMark
from esops.events import Position
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.readmodel.registry import Version
from esops.stores.base import EventStore
from esops.stores.parts import Mark

_SQL = statements(__package__, "marks")


class KeptMark(NamedTuple):
    """A mark, and the position that it belongs to."""

    position: Position
    mark: Mark


def mark_at(store: EventStore, position: Position) -> Mark | None:
    """A store's mark of a position; None where the store cannot tell logs apart."""
    return None if store.identity is None else store.identity.mark(position)


def keep_mark(
    connection: psycopg.Connection, version: Version, position: Position, mark: Mark
) -> None:
    """Keep a version's newest mark, in the transaction that moves its checkpoint up to the mark's
    position.
    """
    values = (version.projection, version.version, str(position), Jsonb(dict(mark)))
    connection.execute(_SQL["keep"], values)


def keep_older(connection: psycopg.Connection, version: Version) -> None:
    """Put the newest mark beside the older ones, before another takes its place.

    Of those it leaves one for each doubling of their age: some thirty for all time.
    """
    of_version = {"projection": version.projection, "version": version.version}
    connection.execute(_SQL["put_aside"], of_version)
    connection.execute(_SQL["thin_out"], of_version)


def newest_mark(connection: psycopg.Connection, version: Version) -> KeptMark | None:
    """A version's newest mark; None where none was kept."""
    if not migrations.has(connection, "marks"):
        return None
    row = connection.execute(_SQL["newest"], (version.projection, version.version)).fetchone()
    return None if row is None else _kept(*row)


def all_marks(connection: psycopg.Connection, version: Version) -> list[KeptMark]:
    """The marks of a version, the newest first."""
    newest = newest_mark(connection, version)
    found = [] if newest is None else [newest]
    if migrations.has(connection, "older_marks"):
        rows = connection.execute(_SQL["older"], (version.projection, version.version)).fetchall()
        found += [_kept(*row) for row in rows]
    return found


def _kept(position: str, mark: Mark) -> KeptMark:
    """A row as it was kept. Raises UnreadableMark where somebody else wrote it."""
    try:
        return KeptMark(Position.parse(position), dict(mark))
    except (TypeError, ValueError) as error:
        raise UnreadableMark from error


def check(connection: psycopg.Connection, store: EventStore, version: Version) -> None:
    """Raises AnotherLog where a store's log is not the one that a version was made from, or where
    its checkpoint is no position of the store.

    Nothing is known of a store that cannot tell logs apart, and little where no mark was kept.
    """
    if version.lost is not None:
        raise AnotherLog(
            f"the rows of {version.projection} v{version.version} are not of the events that store "
            f"{store.name} has: {version.lost}",
            hint=f"Rebuild it: esops rebuild {version.projection} --blue-green",
        )
    identity = store.identity
    if identity is None:
        return
    with named(version):
        if version.position is not None:
            identity.check_reach(version.position)
        kept = newest_mark(connection, version)
        if kept is not None:
            identity.recognise(*kept)


@contextmanager
def named(version: Version) -> Iterator[None]:
    """Name the version in an AnotherLog that is about it."""
    try:
        yield
    except AnotherLog as error:
        where = f"{version.projection} v{version.version}"
        at = "" if version.position is None else f" (at {version.position})"
        hint = (error.hint or "").replace("PROJECTION", version.projection) or None
        raise type(error)(f"{where}{at}: {error.message}", hint=hint) from None


def same_log(connection: psycopg.Connection, store: EventStore, version: Version) -> bool:
    """Whether a version's positions are those of a store: it was made of this one, or its newest
    mark says that the log is the same under another name.
    """
    if version.store == store.name:
        return True
    kept = newest_mark(connection, version)
    return kept is not None and store.identity is not None and bool(store.identity.tells(*kept))
