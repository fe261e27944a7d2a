"""The versions of read models as esops keeps them (its tables: migrations/): which one serves, how
far each one is.

A checkpoint moves here, in the same transaction as the rows, by compare-and-set: if anybody else
moved it, the transaction
fails and nothing is written. The row is locked first and the rows are written after, so whoever
holds the row (a switch)
sees a version that stands still without holding any lock on its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from esops.errors import Busy, UsageError
from esops.events import Position
from esops.postgres import catalog
from esops.readmodel import migrations
from esops.readmodel.types import CHECKPOINT
from esops.stores.parts import Mark

LIVE_STATES = ("active", "standby")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a projection's read model.

    `tables` gives for each plain name its schema and physical name.
    """

    projection: str
    version: int
    state: str
    store: str
    position: Position | None
    events: int
    rows: int | None
    tables: Mapping[str, tuple[str, str]]
    fingerprint: str | None
    value_types: Mapping[str, str] = field(default_factory=dict)
    after_load: tuple[Mapping[str, Any], ...] = ()
    updated_at: datetime | None = None

    @property
    def table(self) -> tuple[str, str]:
        """Schema and physical name of the first table (a fold has just this one)."""
        return next(iter(self.tables.values()))

    @property
    def checkpoint(self) -> str | None:
        """The application's checkpoint, where it builds and keeps this version."""
        text = self.fingerprint or ""
        return text.removeprefix(CHECKPOINT) if text.startswith(CHECKPOINT) else None


_COLUMNS = (
    "projection, version, state, store, position, events, rows, tables, fingerprint, "
    "value_types, after_load, updated_at"
)


def versions(connection: psycopg.Connection, projection: str | None = None) -> list[Version]:
    """The versions of a projection, or of all, oldest first. Empty where esops was never here."""
    if not migrations.installed(connection):
        return []
    rows = connection.execute(
        (
            f"SELECT {_COLUMNS} FROM esops.versions WHERE %s::text IS NULL OR projection = %s "
            "ORDER BY "
            "projection, version"
        ).encode(),
        (projection, projection),
    ).fetchall()
    return [_version(row) for row in rows]


def version(connection: psycopg.Connection, projection: str, number: int) -> Version:
    """One version. Raises UsageError that names those there are."""
    found = {each.version: each for each in versions(connection, projection)}
    if number not in found:
        there_is = ", ".join(str(n) for n in found) or "none"
        raise UsageError(
            f"projection {projection!r} has no version {number}", hint=f"Versions: {there_is}."
        )
    return found[number]


def active(connection: psycopg.Connection, projection: str) -> Version | None:
    """The version that serves now."""
    return next((each for each in versions(connection, projection) if each.state == "active"), None)


def insert(connection: psycopg.Connection, new: Version) -> None:
    """Enter a version."""
    connection.execute(
        "INSERT INTO esops.versions (projection, version, state, store, position, events, rows, "
        "tables, fingerprint, after_load) "
        "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
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


def set_state(connection: psycopg.Connection, projection: str, number: int, state: str) -> None:
    """Move a version to another state."""
    connection.execute(
        "UPDATE esops.versions SET state = %s, updated_at = now() WHERE projection = %s AND "
        "version = %s",
        (state, projection, number),
    )
    if state == "aborted":
        connection.execute(
            "DELETE FROM esops.shards WHERE projection = %s AND version = %s", (projection, number)
        )


def set_tables(
    connection: psycopg.Connection,
    projection: str,
    number: int,
    tables: Mapping[str, tuple[str, str]],
) -> None:
    """Note that a version's tables have other physical names now."""
    connection.execute(
        "UPDATE esops.versions SET tables = %s WHERE projection = %s AND version = %s",
        (Jsonb(dict(tables)), projection, number),
    )


def set_active(
    connection: psycopg.Connection, projection: str, to_version: int, from_version: int | None
) -> None:
    """Note which version serves from now on; the one before stands by."""
    if from_version is not None:
        set_state(connection, projection, from_version, "standby")
    set_state(connection, projection, to_version, "active")
    connection.execute(
        "INSERT INTO esops.projections (projection, active_version, previous_version) VALUES (%s, "
        "%s, %s) "
        "ON CONFLICT (projection) DO UPDATE SET active_version = EXCLUDED.active_version, "
        "previous_version = EXCLUDED.previous_version, updated_at = now()",
        (projection, to_version, from_version),
    )


def previous(connection: psycopg.Connection, projection: str) -> int | None:
    """The version that served before the one that serves now."""
    row = connection.execute(
        "SELECT previous_version FROM esops.projections WHERE projection = %s", (projection,)
    ).fetchone()
    return None if row is None else row[0]


def lock_row(connection: psycopg.Connection, projection: str, number: int) -> Position | None:
    """Hold a version's checkpoint still until the transaction ends, and return it."""
    row = connection.execute(
        "SELECT position FROM esops.versions WHERE projection = %s AND version = %s FOR UPDATE",
        (projection, number),
    ).fetchone()
    assert row is not None
    return None if row[0] is None else Position.parse(row[0])


def position(connection: psycopg.Connection, projection: str, number: int) -> Position | None:
    """A version's checkpoint."""
    row = connection.execute(
        "SELECT position FROM esops.versions WHERE projection = %s AND version = %s",
        (projection, number),
    ).fetchone()
    return None if row is None or row[0] is None else Position.parse(row[0])


@dataclass(frozen=True, slots=True)
class Shard:
    """How far one of several processes that load a version together is."""

    number: int
    of: int
    until: Position
    position: Position | None
    events: int
    rows: int
    value_types: Mapping[str, str]


def shards(connection: psycopg.Connection, at: Version) -> list[Shard]:
    """The shards of a version that is loaded by several processes; none of any other."""
    if not catalog.exists(connection, "esops.shards"):
        return []
    rows = connection.execute(
        "SELECT shard, of, until, position, events, rows, value_types FROM esops.shards WHERE "
        "projection = %s AND version = %s ORDER BY 1",
        (at.projection, at.version),
    ).fetchall()
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


def of_shard(connection: psycopg.Connection, at: Version, number: int) -> Version:
    """A version as one of its shards sees it: with that one's checkpoint, and types.

    Raises Busy where there is no such shard any more.
    """
    found = next((each for each in shards(connection, at) if each.number == number), None)
    if found is None:
        raise Busy(f"{at.projection} v{at.version} has no shard {number} any more")
    return replace(
        at,
        position=found.position,
        events=found.events,
        rows=found.rows,
        value_types=found.value_types,
    )


def make_shards(connection: psycopg.Connection, at: Version, of: int, until: Position) -> None:
    """Begin a load by several processes, all up to one position."""
    with connection.transaction():
        for number in range(of):
            connection.execute(
                "INSERT INTO esops.shards (projection, version, shard, of, until) VALUES (%s, %s, "
                "%s, %s, %s) ON CONFLICT DO NOTHING",
                (at.projection, at.version, number, of, str(until)),
            )


def move_shard(
    connection: psycopg.Connection,
    at: Version,
    number: int,
    old: Position | None,
    new: Position,
    events: int,
) -> None:
    """Move a shard's checkpoint by compare-and-set, in the transaction that writes the rows.

    Raises Busy if it is not where it was.
    """
    moved = connection.execute(
        "UPDATE esops.shards s SET position = %s, events = s.events + %s, updated_at = now() FROM "
        "esops.versions v "
        "WHERE s.projection = %s AND s.version = %s AND shard = %s AND s.position IS NOT DISTINCT "
        "FROM %s "
        "AND v.projection = s.projection AND v.version = s.version AND v.state = 'building'",
        (str(new), events, at.projection, at.version, number, None if old is None else str(old)),
    ).rowcount
    if moved != 1:
        raise Busy(
            f"the checkpoint of shard {number} of {at.projection} v{at.version} was moved by "
            "somebody else"
        )


def note_shard_rows(
    connection: psycopg.Connection,
    at: Version,
    number: int,
    change: int,
    value_types: Mapping[str, str],
) -> None:
    """As note_rows, of a shard."""
    connection.execute(
        "UPDATE esops.shards SET rows = rows + %s, value_types = %s WHERE projection = %s AND "
        "version = %s AND shard = %s",
        (change, Jsonb(dict(value_types)), at.projection, at.version, number),
    )


def merge_shards(connection: psycopg.Connection, at: Version, until: Position) -> None:
    """Make the shards' checkpoints the version's, once all are at their end.

    Raises Busy where they are not.

    Done again after an answer that was lost, it does nothing.
    """
    with connection.transaction():
        found = shards(connection, at)
        if not found and position(connection, at.projection, at.version) == until:
            return
        if not found or any(each.position != until for each in found):
            raise Busy(f"not all shards of {at.projection} v{at.version} are at {until}")
        types: dict[str, str] = {}
        for each in found:
            for name, kind in each.value_types.items():
                types[name] = wider(types.get(name), kind)
        moved = connection.execute(
            "UPDATE esops.versions SET position = %s, events = %s, rows = %s, value_types = %s, "
            "fingerprint = %s, updated_at = now() "
            "WHERE projection = %s AND version = %s AND position IS NULL AND state IN ('building', "
            "'active')",
            (
                str(until),
                sum(each.events for each in found),
                sum(each.rows for each in found),
                Jsonb(types),
                at.fingerprint,
                at.projection,
                at.version,
            ),
        ).rowcount
        if moved != 1:
            raise Busy(
                f"the checkpoint of {at.projection} v{at.version} was moved by somebody else"
            )
        connection.execute(
            "DELETE FROM esops.shards WHERE projection = %s AND version = %s",
            (at.projection, at.version),
        )


def keep_mark(connection: psycopg.Connection, at: Version, position: Position, mark: Mark) -> None:
    """Keep what tells the store's log at a checkpoint from any other, in the transaction that moves
    the checkpoint there.
    """
    connection.execute(
        "INSERT INTO esops.marks (projection, version, position, mark) VALUES (%s, %s, %s, %s) "
        "ON CONFLICT (projection, version) DO UPDATE SET position = EXCLUDED.position, mark = "
        "EXCLUDED.mark",
        (at.projection, at.version, str(position), Jsonb(dict(mark))),
    )


def mark_of(connection: psycopg.Connection, at: Version) -> Mark | None:
    """The mark of a version's checkpoint; None where none was kept for where it is now."""
    row = connection.execute(
        "SELECT mark FROM esops.marks WHERE projection = %s AND version = %s AND position = %s",
        (at.projection, at.version, None if at.position is None else str(at.position)),
    ).fetchone()
    return None if row is None else row[0]


def set_apart(connection: psycopg.Connection, at: Version) -> None:
    """Take a version's checkpoint away while its rows are replaced: nobody can follow it, and it is
    made by no one code.
    """
    connection.execute(
        "UPDATE esops.versions SET position = NULL, events = 0, fingerprint = NULL, updated_at "
        "= now() "
        "WHERE projection = %s AND version = %s",
        (at.projection, at.version),
    )


def end_range(connection: psycopg.Connection, at: Version, part: Shard, built: Version) -> None:
    """Note that a share of a version's rows is as it was built elsewhere."""
    connection.execute(
        "UPDATE esops.shards SET position = until, events = %s, rows = %s, value_types = %s, "
        "updated_at = now() "
        "WHERE projection = %s AND version = %s AND shard = %s",
        (
            built.events,
            built.rows or 0,
            Jsonb(dict(built.value_types)),
            at.projection,
            at.version,
            part.number,
        ),
    )


def forget(connection: psycopg.Connection, projection: str, number: int) -> None:
    """Take a version out that nobody ever read."""
    connection.execute(
        "DELETE FROM esops.versions WHERE projection = %s AND version = %s", (projection, number)
    )


def wider(known: str | None, new: str) -> str:
    """The Python type that a column's values of two types come back as."""
    if known in {None, "None"} or {known, new} == {known}:
        return new
    order = ("bool", "int", "float", "Decimal")
    if known in order and new in order:
        return max(known, new, key=order.index)
    return "str" if "str" in {known, new} else new


class TablesMoved(Exception):
    """A version's tables have got other names, by a switch of kind `rename`."""


def move_checkpoint(
    connection: psycopg.Connection, at: Version, old: Position | None, new: Position, events: int
) -> None:
    """Move a checkpoint by compare-and-set, in the transaction that writes the rows, and hold the
    row until its end.

    Raises TablesMoved if the tables are not called what they were: then what was read by the old
    names may be another
    version's. Raises Busy if the checkpoint is not where it was.
    """
    moved = connection.execute(
        "UPDATE esops.versions SET position = %s, events = events + %s, updated_at = now() "
        "WHERE projection = %s AND version = %s AND position IS NOT DISTINCT FROM %s AND tables "
        "= %s "
        "AND state IN ('building', 'standby', 'active')",
        (
            str(new),
            events,
            at.projection,
            at.version,
            None if old is None else str(old),
            Jsonb(dict(at.tables)),
        ),
    ).rowcount
    if moved == 1:
        return
    now = version(connection, at.projection, at.version)
    if now.tables != at.tables and now.position == old:
        raise TablesMoved
    raise Busy(
        f"the checkpoint of {at.projection} v{at.version} was moved, or the version retired, by "
        "somebody else",
        hint=f"See `esops projection show {at.projection}` for who works on it.",
    )


def note_rows(
    connection: psycopg.Connection, at: Version, change: int, value_types: Mapping[str, str]
) -> None:
    """Keep a version's row count and the Python types of its columns, in the transaction that
    writes the rows.
    """
    connection.execute(
        "UPDATE esops.versions SET rows = rows + %s, value_types = %s WHERE projection = %s AND "
        "version = %s",
        (change, Jsonb(dict(value_types)), at.projection, at.version),
    )


def leave(connection: psycopg.Connection, at: Version) -> None:
    """Note that the application keeps a version fresh from now on: where it is and by which code is
    no longer esops' to say.
    """
    connection.execute(
        "UPDATE esops.versions SET position = NULL, fingerprint = NULL, updated_at = now() WHERE "
        "projection = %s AND version = %s",
        (at.projection, at.version),
    )


def start_over(connection: psycopg.Connection, at: Version, fingerprint: str) -> None:
    """Put a version's checkpoint before all events, in the transaction that empties its tables; it
    is made by this code from now on.
    """
    connection.execute(
        "UPDATE esops.versions SET position = NULL, events = 0, rows = 0, value_types = '{}', "
        "fingerprint = %s, updated_at = now() "
        "WHERE projection = %s AND version = %s",
        (fingerprint, at.projection, at.version),
    )


def set_rows(connection: psycopg.Connection, at: Version, rows: int) -> None:
    """Note how many rows a version has, where that is not counted with each checkpoint."""
    connection.execute(
        "UPDATE esops.versions SET rows = %s WHERE projection = %s AND version = %s",
        (rows, at.projection, at.version),
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
    )
