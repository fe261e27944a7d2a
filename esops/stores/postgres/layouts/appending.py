"""Appending as libraries do it: checked versions, rows inserted in their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Refused
from esops.events import NewEvent, Position
from esops.stores.base import WrongExpectedVersion


def expect(stream: str, version: int, expected_version: int | None) -> None:
    """Raises WrongExpectedVersion where a stream is not at the version that was expected."""
    if expected_version is not None and version != expected_version:
        raise WrongExpectedVersion(
            f"stream {stream!r} is at version {version}, not {expected_version}"
        )


def at(event: NewEvent) -> str | None:
    """The time that an event brings, as Postgres reads it."""
    return None if event.recorded_at is None else event.recorded_at.isoformat()


def insert_each(
    connection: psycopg.Connection,
    statement: sql.Composed,
    rows: Iterable[Sequence[Any] | Mapping[str, Any]],
) -> Position:
    """Insert rows one after the other, so that their numbers are in their order; the position that
    the last one RETURNs.
    """
    # One statement for several rows would leave it to the server in which order it numbers them.
    last: tuple[int, ...] = (0,)
    for row in rows:
        written = connection.execute(statement, row).fetchone()
        assert written is not None
        last = written
    return Position(last)


@dataclass(frozen=True)
class AppendBesideStreamRow:
    """Appending where each stream has a row of its own, which is locked while events are inserted.

    All statements take `stream`.
    """

    make: sql.Composed
    """Makes the stream's row where there is none."""
    lock: sql.Composed
    """Locks it and gives the stream's version and whether it is archived."""
    insert: sql.Composed
    """Takes also `version`, `id`, `type`, `data`, `metadata` and `recorded_at` as text; RETURNs the
    position.
    """
    move: sql.Composed
    """Takes also `version`, and `recorded_at` of the last event, and notes them as the stream's."""

    def append(
        self,
        connection: psycopg.Connection,
        stream: str,
        events: Sequence[NewEvent],
        expected_version: int | None,
    ) -> Position:
        """Append. Raises Refused for an archived stream, and WrongExpectedVersion."""
        known = {"stream": stream}
        # Made in a statement of its own, so that the lock below finds a row whoever made it.
        connection.execute(self.make, known)
        row = connection.execute(self.lock, known).fetchone()
        assert row is not None
        version, archived = row
        if archived:
            raise Refused(f"stream {stream!r} is archived and takes no more events")
        expect(stream, version, expected_version)
        rows = (
            {
                **known,
                "version": number,
                "id": event.id,
                "type": event.type,
                "data": event.data.decode(),
                "metadata": event.metadata.decode(),
                "recorded_at": at(event),
            }
            for number, event in enumerate(events, version + 1)
        )
        position = insert_each(connection, self.insert, rows)
        last = at(events[-1]) if events else None
        moved = {**known, "version": version + len(events), "recorded_at": last}
        connection.execute(self.move, moved)
        return position
