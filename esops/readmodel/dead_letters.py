"""Dead letters: events that a projection could not apply and skipped, because its definition says
so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from esops.config import Config
from esops.escaping import visible_lines
from esops.events import Position, RecordedEvent
from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import migrations

_SQL = statements(__package__, "dead_letters")


def list_dead_letters(config: Config, name: str) -> list[dict[str, Any]]:
    """The dead letters of a projection, oldest first. Raises UsageError for an unknown one."""
    return page_of_dead_letters(config, name, None)


def page_of_dead_letters(config: Config, name: str, limit: int | None) -> list[dict[str, Any]]:
    """The first dead letters of a projection; raises as `list_dead_letters` does."""
    config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, "dead letters") as connection:
        if not migrations.installed(connection):
            return []
        with connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_SQL["list"], (name, limit)).fetchall()


def count_dead_letters(connection: psycopg.Connection, projection: str) -> dict[int, int]:
    """How many dead letters each version of a projection has; those without any are left out."""
    if not migrations.installed(connection):
        return {}
    return {int(row[0]): int(row[1]) for row in connection.execute(_SQL["counts"], (projection,))}


def positions_of(connection: psycopg.Connection, projection: str, version: int) -> set[Position]:
    """The positions of a version's dead letters."""
    if not migrations.installed(connection):
        return set()
    rows = connection.execute(_SQL["of_version"], (projection, version))
    return {Position.parse(row[0]) for row in rows}


def remove_dead_letters(
    connection: psycopg.Connection, projection: str, version: int, positions: Iterable[Position]
) -> None:
    """Remove dead letters, in the transaction that writes what their events make."""
    connection.execute(_SQL["remove"], (projection, version, [str(each) for each in positions]))


def fails_still(
    connection: psycopg.Connection, projection: str, version: int, position: Position, reason: str
) -> None:
    """Note why an event could not be replayed either."""
    values = (visible_lines(reason), projection, version, str(position))
    connection.execute(_SQL["fails_still"], values)


def discard_dead_letters(connection: psycopg.Connection, projection: str) -> list[tuple[int, str]]:
    """Forget the dead letters of a projection; returns the version and position of each."""
    return [
        (int(row[0]), str(row[1])) for row in connection.execute(_SQL["discard"], (projection,))
    ]


def record_dead_letter(
    connection: psycopg.Connection,
    projection: str,
    version: int,
    event: RecordedEvent,
    reason: str,
) -> None:
    """Record an event, in the transaction that moves the version's checkpoint past it."""
    connection.execute(
        _SQL["record"],
        (
            projection,
            version,
            str(event.position),
            _storable(event.id),
            _storable(event.stream),
            event.version,
            _storable(event.type),
            # The text of a user's exception may hold what Postgres does not take.
            visible_lines(reason),
        ),
    )


def _storable(text: str) -> str:
    """A name from another store than Postgres, which has no zero characters."""
    return text.replace("\0", "\\x00")
