"""Removing ranges of streams from a layout's tables, in small transactions.

A stream that a writer works on is left alone, and so is one that changed since it was archived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors, sql

from esops.events import StreamKey
from esops.stores.parts import Removed, VersionRange
from esops.stores.postgres.layouts.archiving import LayoutArchiving, SqlRemoval


def remove(
    connection: psycopg.Connection,
    rules: LayoutArchiving,
    removal: SqlRemoval,
    parts: list[VersionRange],
) -> list[Removed]:
    """Remove ranges in one transaction.

    Where that fails, each half is tried by itself, and so on: the streams that can go do go, and
    the reason is given for the one that it concerns.
    """
    try:
        with connection.transaction():
            return _remove_at_once(connection, rules, removal, parts)
    except (
        errors.LockNotAvailable,
        errors.QueryCanceled,
        errors.IntegrityError,
        errors.RaiseException,
    ) as error:
        if len(parts) == 1:
            reason = (
                "a writer holds it"
                if isinstance(error, errors.LockNotAvailable)
                else str(error).splitlines()[0]
            )
            return [Removed(parts[0], 0, reason)]
    middle = len(parts) // 2
    return [
        *remove(connection, rules, removal, parts[:middle]),
        *remove(connection, rules, removal, parts[middle:]),
    ]


def _remove_at_once(
    connection: psycopg.Connection,
    rules: LayoutArchiving,
    removal: SqlRemoval,
    parts: list[VersionRange],
) -> list[Removed]:
    if parts[0].head:
        return _remove_heads(connection, removal, parts)
    there = {
        StreamKey(stream, tenant): (version, archived)
        for stream, tenant, version, archived in connection.execute(
            rules.guard, keys_of([part.key for part in parts])
        ).fetchall()
    }
    done: list[Removed] = []
    going: list[VersionRange] = []
    for part in parts:
        version, archived = there.get(part.key, (None, False))
        if version is None:
            done.append(Removed(part, 0, "a writer holds it, or it does not exist any more"))
        elif version != part.last_version:
            done.append(
                Removed(
                    part,
                    0,
                    f"it changed since it was archived: at version {version}, not "
                    f"{part.last_version}",
                )
            )
        elif archived and removal.rows is None:
            done.append(Removed(part, 0, None))  # by a run before
        else:
            going.append(part)
    if removal.rows is not None and going:
        _delete(connection, removal.rows, going)
    # Where events stay, the stream stays as it is.
    ending = [part for part in going if part.ends and part.high == part.last_version]
    if ending:
        for statement in removal.end:
            connection.execute(statement, keys_of([part.key for part in ending]))
    return [*done, *(Removed(part, part.high - part.low + 1, None) for part in going)]


def _remove_heads(
    connection: psycopg.Connection, removal: SqlRemoval, parts: list[VersionRange]
) -> list[Removed]:
    """Remove ranges of streams that continue: no row of a stream is locked, so that no writer
    waits, and what is appended lies behind what is removed.
    """
    limits = head_limits(connection, removal, [part.key for part in parts])
    going = [part for part in parts if limits.get(part.key, part.high - 1) >= part.last_version]
    if removal.rows is not None and going:
        _delete(connection, removal.rows, going)
    reason = "it changed since it was archived: it cannot do without this head any more"
    return [
        Removed(part, part.high - part.low + 1, None) if part in going else Removed(part, 0, reason)
        for part in parts
    ]


def head_limits(
    connection: psycopg.Connection, removal: SqlRemoval, streams: Sequence[StreamKey]
) -> dict[StreamKey, int]:
    """The version up to which the head of each stream can go; see Archiving."""
    assert removal.heads is not None
    found = connection.execute(removal.heads.limits, keys_of(streams)).fetchall()
    return {StreamKey(stream, tenant): version for stream, tenant, version in found}


def _delete(
    connection: psycopg.Connection, statement: sql.Composed, parts: Sequence[VersionRange]
) -> None:
    keys = {
        **keys_of([part.key for part in parts]),
        "low": [part.low for part in parts],
        "high": [part.high for part in parts],
    }
    connection.execute(statement, keys)


def keys_of(streams: Sequence[StreamKey]) -> dict[str, Any]:
    """Streams as the parameters that a layout's statements take."""
    return {"stream": [key.stream for key in streams], "tenant": [key.tenant for key in streams]}
