"""The registry of versions: which version of a read model serves, and how far each one is.

Checkpoints move in checkpoints.py. The tables are made by migrations/. A version that several
processes load has shards (shards.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import Refused, UsageError
from esops.events import Position
from esops.postgres.statements import statements
from esops.readmodel import erased, migrations, owners
from esops.readmodel.types import CHECKPOINT

LIVE_STATES = ("active", "standby")
"""States in which a version is kept fresh."""
_SQL = statements(__package__, "registry")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a projection's read model."""

    projection: str
    version: int
    state: str
    """building, standby, active, retired or aborted."""
    store: str
    position: Position | None
    """The checkpoint; None before the first event, or where the application keeps it."""
    events: int
    rows: int | None
    tables: Mapping[str, tuple[str, str]]
    """Schema and physical name of each table, by the name that the application reads."""
    fingerprint: str | None
    """Of the code that built it; of one that the application builds, its checkpoint's name."""
    value_types: Mapping[str, str] = field(default_factory=dict)
    """By column, the Python type that a fold wrote."""
    after_load: tuple[Mapping[str, Any], ...] = ()
    """The keys and indexes to be built after the load."""
    updated_at: datetime | None = None
    lost: str | None = None
    """Why its rows are of events that the store does not have any more, where that was recorded."""
    applied: Mapping[str, Any] | None = None
    """The last event that was applied: its position, and the mark that its store makes of it."""
    fence: int = 0
    """How often rows were written without moving the checkpoint (fence.py)."""
    relations: Mapping[str, Any] | None = None
    """In which tables it was built, where that was noted (own_rows.py)."""

    @property
    def table(self) -> tuple[str, str]:
        """Schema and physical name of the first table; a fold has just one."""
        return next(iter(self.tables.values()))

    @property
    def checkpoint(self) -> str | None:
        """The name of the application's checkpoint, where the application keeps this version."""
        text = self.fingerprint or ""
        return text.removeprefix(CHECKPOINT) if text.startswith(CHECKPOINT) else None


# --- reading


def versions(connection: psycopg.Connection, projection: str | None = None) -> list[Version]:
    """The versions of a projection, or of all, oldest first; none where esops never was.

    Raises Refused where a newer esops made the tables.
    """
    return _versions(connection, projection, None)


def _versions(
    connection: psycopg.Connection, projection: str | None, number: int | None
) -> list[Version]:
    if not migrations.installed(connection):
        return []
    values = {"projection": projection, "version": number}
    return [_version(row) for row in connection.execute(_SQL["versions"], values).fetchall()]


def version(connection: psycopg.Connection, projection: str, number: int) -> Version:
    """One version. Raises UsageError that lists the versions there are."""
    found = _versions(connection, projection, number)
    if not found:
        numbers = [str(each.version) for each in versions(connection, projection)]
        raise UsageError(
            f"projection {projection!r} has no version {number}",
            hint=f"Versions: {', '.join(numbers) or 'none'}.",
        )
    return found[0]


def active(connection: psycopg.Connection, projection: str) -> Version | None:
    """The version that serves now."""
    return next((each for each in versions(connection, projection) if each.state == "active"), None)


def previous(connection: psycopg.Connection, projection: str) -> int | None:
    """The version that served before the one that serves now."""
    row = connection.execute(
        "SELECT previous_version FROM esops.projections WHERE projection = %s", (projection,)
    ).fetchone()
    return None if row is None else row[0]


def read_position(connection: psycopg.Connection, projection: str, number: int) -> Position | None:
    """The checkpoint of a version."""
    row = connection.execute(_SQL["position"], (projection, number)).fetchone()
    return None if row is None or row[0] is None else Position.parse(row[0])


# --- a version's life


def insert(connection: psycopg.Connection, new: Version) -> None:
    """Enter a new version. Raises Refused where a table or name is another projection's."""
    owners.claim(connection, new.projection, new.tables)
    connection.execute(
        _SQL["insert"],
        (
            new.projection,
            new.version,
            new.state,
            new.store,
            None if new.position is None else str(new.position),
            new.events,
            new.rows,
            Jsonb(dict(new.tables)),
            new.fingerprint,
            Jsonb(list(new.after_load)),
        ),
    )


def hold(connection: psycopg.Connection, at: Version, states: Collection[str]) -> Version:
    """Hold a version until the transaction ends, and return it as it is now.

    Raises Refused where its state is none of these any more: whoever acts on a version looks at it
    again under the lock, for another process may have switched or retired it since it was read.
    """
    lock_checkpoint(connection, at.projection, at.version)
    now = version(connection, at.projection, at.version)
    if now.state not in states:
        raise _changed(now)
    return now


def set_state(
    connection: psycopg.Connection,
    projection: str,
    number: int,
    state: str,
    *,
    was: Collection[str],
) -> None:
    """Change the state of a version from one of those that it may be in.

    Raises Refused where it is in another one.
    """
    values = {"state": state, "projection": projection, "version": number, "was": list(was)}
    if connection.execute(_SQL["set_state"], values).rowcount != 1:
        raise _changed(version(connection, projection, number))
    if state == "aborted":
        # A worker of the load that is still running finds no shard, and ends.
        connection.execute(_SQL["drop_shards"], (projection, number))
        forget_spills(connection, projection, number)


def drop_shards(connection: psycopg.Connection, at: Version) -> None:
    """Drop the checkpoints of processes that load a version, or of ranges that are replaced."""
    connection.execute(_SQL["drop_shards"], (at.projection, at.version))


def set_active(
    connection: psycopg.Connection, projection: str, to_version: int, from_version: int | None
) -> None:
    """Record that `to_version` serves from now on; the one that served before is on standby.

    Raises Refused where another one served before, or `to_version` cannot serve any more.
    """
    if from_version is not None:
        set_state(connection, projection, from_version, "standby", was=("active",))
    else:
        serving = active(connection, projection)
        if serving is not None and serving.version != to_version:
            raise _changed(serving)
    states = ("building", *LIVE_STATES)
    set_state(connection, projection, to_version, "active", was=states)
    connection.execute(_SQL["set_active"], (projection, to_version, from_version))


def set_retired(connection: psycopg.Connection, at: Version) -> None:
    """Record that a version is dropped; where it served, no version serves any more."""
    set_state(connection, at.projection, at.version, "retired", was=(at.state,))
    if at.state == "active":
        connection.execute(_SQL["none_active"], (at.projection, at.version))


def set_tables(
    connection: psycopg.Connection,
    projection: str,
    number: int,
    tables: Mapping[str, tuple[str, str]],
) -> None:
    """Record that the tables of a version have other physical names now."""
    connection.execute(
        "UPDATE esops.versions SET tables = %s WHERE projection = %s AND version = %s",
        (Jsonb(dict(tables)), projection, number),
    )


def delete(connection: psycopg.Connection, projection: str, number: int) -> None:
    """Delete a version that nobody ever read."""
    connection.execute(
        "DELETE FROM esops.versions WHERE projection = %s AND version = %s", (projection, number)
    )
    forget_marks(connection, projection, number)
    forget_spills(connection, projection, number)
    erased.forget(connection, projection, number)


# --- checkpoints and counts


def lock_checkpoint(
    connection: psycopg.Connection, projection: str, number: int
) -> Position | None:
    """Hold the checkpoint of a version until the transaction ends, and return it."""
    row = connection.execute(_SQL["lock_checkpoint"], (projection, number)).fetchone()
    assert row is not None
    return None if row[0] is None else Position.parse(row[0])


def forget_marks(connection: psycopg.Connection, projection: str, number: int) -> None:
    """Drop what tells the log at a version's checkpoint, since the checkpoint is gone."""
    connection.execute(_SQL["forget_mark"], (projection, number))
    connection.execute(_SQL["forget_older_marks"], (projection, number))


def forget_spills(connection: psycopg.Connection, projection: str, number: int) -> None:
    """Drop what is recorded of the spills of a version's load (spills.py), which is over."""
    if migrations.has(connection, "spills"):
        connection.execute(_SQL["forget_spills"], (projection, number))


def note_code(connection: psycopg.Connection, at: Version, fingerprint: str) -> None:
    """Keep another fingerprint of the code that keeps a version fresh from now on.

    Nothing happens where somebody else changed it in the meantime.
    """
    connection.execute(_SQL["note_code"], (fingerprint, at.projection, at.version, at.fingerprint))


def add_rows(
    connection: psycopg.Connection, at: Version, change: int, value_types: Mapping[str, str]
) -> None:
    """Add to a version's count of rows, and keep the Python types of its columns, in the
    transaction that writes the rows.
    """
    connection.execute(
        _SQL["add_rows"], (change, Jsonb(dict(value_types)), at.projection, at.version)
    )


def set_rows(connection: psycopg.Connection, at: Version, rows: int) -> None:
    """Set a version's count of rows, where it is not counted with each checkpoint."""
    connection.execute(
        "UPDATE esops.versions SET rows = %s WHERE projection = %s AND version = %s",
        (rows, at.projection, at.version),
    )


def _changed(now: Version) -> Refused:
    """The error of whoever finds a version in another state than the one that it acts on."""
    name = now.projection
    return Refused(
        f"v{now.version} of {name} is {now.state} by now: another command has changed it since "
        "this one looked. Nothing was changed",
        hint=f"Look with `esops projection show {name}`, and decide again.",
    )


def _version(row: tuple[Any, ...]) -> Version:
    (
        projection,
        number,
        state,
        store,
        position_text,
        events,
        rows,
        tables,
        code,
        types,
        after_load,
        updated_at,
        lost,
        applied,
        fence,
        relations,
    ) = row
    return Version(
        projection,
        number,
        state,
        store,
        None if position_text is None else Position.parse(position_text),
        events,
        rows,
        {name: (physical[0], physical[1]) for name, physical in tables.items()},
        code,
        types,
        tuple(after_load),
        updated_at,
        lost,
        applied,
        fence,
        relations,
    )
