"""The record of checks (`esops.checks`), and the keys of rows that were found wrong."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from esops.errors import Unavailable, UsageError
from esops.postgres.statements import statements
from esops.readmodel import migrations

_SQL = statements(__package__, "checks")
KEPT_KEYS = 100_000
"""The most keys that are kept of one check."""
_KEPT_CHECKS = 5
"""Checks of a projection of which all keys are kept, although later ones found them as well."""


@dataclass(frozen=True, slots=True)
class WrongKey:
    """The key of a row that is not what the events make."""

    table: str
    """As the application reads it."""
    key: tuple[str, ...]
    """The texts of the columns of the table's key, in their order."""
    kind: str
    """missing, surplus (the events make no such row), or unlike."""


@dataclass(frozen=True, slots=True)
class RecordedCheck:
    """A check, as it was recorded."""

    id: int
    projection: str
    version: int | None
    state: str
    differing: int
    unchecked: int
    healed: int
    position: str | None
    started_at: datetime


def begin(
    connection: psycopg.Connection,
    projection: str,
    version: int | None,
    asked: Mapping[str, Any],
) -> int | None:
    """Record that a check begins; returns its number, and None where this role may not record."""
    values = {
        "projection": projection,
        "version": version,
        "asked": Jsonb(dict(asked)),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    try:
        migrations.install(connection)
        with connection.transaction():
            _note_killed(connection, values)
            row = connection.execute(_SQL["begin"], values).fetchone()
            connection.execute(_SQL["forget"], {**values, "kept": _KEPT_CHECKS})
    except (Unavailable, psycopg.errors.InsufficientPrivilege):
        return None
    assert row is not None
    return int(row[0])


def _note_killed(connection: psycopg.Connection, values: Mapping[str, Any]) -> None:
    """Say of checks that a process of this host began and can end no more that they failed."""
    pids = [row[0] for row in connection.execute(_SQL["running"], values).fetchall()]
    dead = [pid for pid in pids if not _lives(pid)]
    if dead:
        connection.execute(_SQL["died"], {**values, "dead": dead})


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def end(connection: psycopg.Connection, number: int, found: Mapping[str, Any]) -> None:
    """Record how a check ended. `found` has the values of the columns."""
    values = {**found, "id": number}
    for name in ("columns", "samples"):
        values[name] = Jsonb(values[name])
    connection.execute(_SQL["end"], values)


def keep_keys(connection: psycopg.Connection, number: int, keys: Sequence[WrongKey]) -> None:
    """Keep the keys of wrong rows, so that they can be healed later."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            _SQL["keep"], [(number, each.table, list(each.key), each.kind) for each in keys]
        )


def keys_of(connection: psycopg.Connection, number: int) -> list[WrongKey]:
    """The keys that a check found wrong, as far as they are kept."""
    rows = connection.execute(_SQL["keys"], (number,)).fetchall()
    return [WrongKey(table, tuple(key), kind) for table, key, kind in rows]


def open_keys(
    connection: psycopg.Connection, projection: str, version: int | None
) -> set[tuple[str, tuple[str, ...]]]:
    """The tables and keys that checks of a version have found wrong, and that nobody has found
    right since, up to a bound.
    """
    if not migrations.has(connection, "checks"):
        return set()
    values = {"projection": projection, "version": version, "most": KEPT_KEYS}
    rows = connection.execute(_SQL["open"], values).fetchall()
    return {(table, tuple(key)) for table, key in rows}


def mark_right(
    connection: psycopg.Connection, number: int, keys: Collection[tuple[str, tuple[str, ...]]]
) -> None:
    """Note that a check found rows right that earlier ones found wrong."""
    connection.execute(_SQL["right"], {"id": number, **_columns(keys)})


def forget(
    connection: psycopg.Connection,
    projection: str,
    version: int | None,
    keys: Collection[tuple[str, tuple[str, ...]]],
) -> None:
    """Note of rows of a version that checks found wrong that they are right now."""
    if keys:
        values = {"projection": projection, "version": version, **_columns(keys)}
        connection.execute(_SQL["drop"], values)


def forget_keys(connection: psycopg.Connection, of: Callable[[str], bool]) -> int:
    """Drop the keys of wrong rows that have a text which is not to be kept; returns how many."""
    if not migrations.has(connection, "checks"):
        return 0
    keys: set[tuple[str, ...]] = set()
    for (key,) in connection.execute("SELECT DISTINCT key FROM esops.check_keys"):
        if any(of(text) for text in key):
            keys.add(tuple(key))
    if not keys:
        return 0
    values = {"keys": [_array(each) for each in keys]}
    return connection.execute(_SQL["forget_keys"], values).rowcount


def mark_healed(connection: psycopg.Connection, number: int, keys: Sequence[WrongKey]) -> None:
    """Note that rows that a check found wrong are right now."""
    found = [(each.table, each.key) for each in keys]
    connection.execute(_SQL["healed"], {"id": number, **_columns(found)})


def _columns(keys: Collection[tuple[str, tuple[str, ...]]]) -> dict[str, list[str]]:
    return {
        "tables": [table for table, _ in keys],
        "keys": [_array(key) for _, key in keys],
    }


def _array(texts: Sequence[str]) -> str:
    """An array of texts as the server reads it: an array of arrays would need equal lengths."""
    quoted = (each.replace("\\", "\\\\").replace('"', '\\"') for each in texts)
    return "{" + ",".join(f'"{each}"' for each in quoted) + "}"


def recorded(connection: psycopg.Connection, number: int) -> RecordedCheck:
    """A check by its number. Raises UsageError where there is none."""
    row = None
    if migrations.has(connection, "checks"):
        row = connection.execute(_SQL["one"], (number,)).fetchone()
    if row is None:
        raise UsageError(
            f"there is no check {number} in this read model's database",
            hint="`esops projection check NAME` says the number of each check at its end.",
        )
    return RecordedCheck(*row)


def latest(connection: psycopg.Connection, projection: str) -> dict[str, Any] | None:
    """The last check of a projection that came to its end, one of named keys only where there is no
    other; None where there is none.

    `wrong` is how many rows of the version that serves any check found wrong, and nobody has found
    right since; `wrong_by` is the last such check.
    """
    if not migrations.has(connection, "checks"):
        return None
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            _SQL["latest"], {"projection": projection, "most": KEPT_KEYS}
        ).fetchone()
