"""Emmett's processors: how far each is, and how the checkpoint of one is set.

Facts: the library's own functions; see docs/reference/layouts.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NamedTuple

import psycopg
from psycopg import sql

from esops.errors import Refused, nearest
from esops.events import Checkpoint, Position, StreamKey
from esops.postgres import catalog
from esops.postgres.statements import statements
from esops.stores.postgres.layouts.emmett import inline
from esops.stores.postgres.layouts.emmett.inline import PROJECTOR

_C = sql.Identifier
_SQL = statements(__package__, "processors")
_ALIVE: Mapping[str, Literal["yes", "no", "unknown"]] = {"running": "yes", "stopped": "no"}
"""By the status. `running` stands until the processor ends in order: one that was killed may be
dead, and nothing tells.
"""
_PAIR = re.compile(r"(\d{20}):(\d{19})\Z")
_TAKEN_OVER_AFTER = timedelta(seconds=300)
"""After so long without a sign of life another instance may take a processor over."""


@dataclass(frozen=True)
class Processors:
    """Where Emmett's processors are, and which messages esops reads."""

    schema: str
    table: str
    """emt_processors, or emt_subscriptions up to 0.41."""
    by_position: bool
    """Whether esops reads by global position, and not in the library's order."""
    tenants: bool
    """Whether a partition is a tenant of the store."""
    only: str | None
    """The only partition that is read."""


def checkpoints(connection: psycopg.Connection, where: Processors) -> list[Checkpoint]:
    """Emmett's processors of the partitions that are read.

    The text is a pair since 0.43, and the global position alone before, or where 0.43 registered a
    processor that has stored nothing yet.
    """
    table = catalog.find_table(connection, where.schema, where.table)
    if table is None:
        return []
    # By the columns and not by a version, which the tables do not tell.
    identity = "processor_id" if table.has("processor_id") else "subscription_id"
    text = (
        "last_processed_checkpoint"
        if table.has("last_processed_checkpoint")
        else "last_processed_position"
    )
    state = _C("status") if table.has("status") else sql.SQL("'unknown'")
    updated = _C("last_updated") if table.has("last_updated") else sql.SQL("NULL::timestamptz")
    rows = connection.execute(
        sql.SQL(
            "SELECT {}, version, {}::text, {}, {}, partition FROM {} "
            "WHERE %(only)s::text IS NULL OR partition = %(only)s ORDER BY 1, 2"
        ).format(_C(identity), _C(text), state, updated, _C(where.schema, where.table)),
        {"only": where.only},
    ).fetchall()
    handled = _handled(connection, where.schema)
    found = []
    for name, version, checkpoint, status, updated_at, partition in rows:
        pair = _PAIR.match(checkpoint or "")
        number = _number(pair, checkpoint)
        at = {"partition": partition, "number": number, "transaction": pair[1] if pair else None}
        position, evidence = _stands(connection, where, at)
        if number is None:
            evidence = f"its checkpoint is {checkpoint or 'NULL'!r}, which is no position"
        stream = None if pair or not number else _stream_at(connection, where, at)
        projection = name.removeprefix(PROJECTOR) if name.startswith(PROJECTOR) else ""
        detail = {
            "version": str(version),
            "partition": partition,
            "form": "pair" if pair else "global position",
        }
        tenant = partition if where.tenants else ""
        found.append(
            Checkpoint(
                name,
                position,
                status,
                updated_at,
                detail,
                tenant=tenant,
                types=handled.get((projection, partition), ()),
                alive=_ALIVE.get(status, "unknown"),
                evidence=evidence,
                holds_stream=None if stream is None else StreamKey(stream, tenant),
            )
        )
    return found


def _number(pair: re.Match[str] | None, checkpoint: str | None) -> int | None:
    """The number in a checkpoint; None where it has none that a message can have."""
    text = pair[2] if pair else checkpoint
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    in_reach = int(text) < 2**63 and (pair is None or int(pair[1]) < 2**64)
    return int(text) if in_reach else None


def _stands(
    connection: psycopg.Connection, where: Processors, at: Mapping[str, Any]
) -> tuple[Position | None, str]:
    """The position up to which a processor has certainly read all, and why it is not known."""
    if not at["number"]:
        return None, ""
    if at["transaction"] is not None and not where.by_position:
        return Position((int(at["transaction"]), at["number"])), ""
    row = connection.execute(_on("stands", where), at).fetchone()
    if row is None:
        return None, f"its checkpoint is {at['number']}, and no event up to there is in the store"
    return Position(row), ""


def _stream_at(
    connection: psycopg.Connection, where: Processors, at: Mapping[str, Any]
) -> str | None:
    row = connection.execute(_on("stream_at", where), at).fetchone()
    return None if row is None else str(row[0])


def _on(statement: str, where: Processors) -> sql.Composed:
    columns = ["global_position"] if where.by_position else ["transaction_id", "global_position"]

    def of(table: str, form: str = "{}") -> sql.Composed:
        return sql.SQL(", ").join(sql.SQL(form).format(_C(table, name)) for name in columns)

    return sql.SQL(_SQL[statement]).format(
        messages=_C(where.schema, "emt_messages"),
        order_of_m=of("m"),
        order_of_unread=of("unread"),
        selected=of("m", "{}::text::bigint"),
        backwards=of("m", "{} DESC"),
    )


def _handled(connection: psycopg.Connection, schema: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The types that projections handle, by name and partition."""
    if not catalog.has_table(connection, schema, "emt_projections"):
        return {}
    statement = sql.SQL(_SQL["handled"]).format(projections=_C(schema, "emt_projections"))
    return {
        (name, partition): tuple(map(str, types))
        for name, partition, types in connection.execute(statement).fetchall()
    }


def set_checkpoint(
    connection: psycopg.Connection, schema: str, processors: str, name: str, position: Position
) -> None:
    """Set a processor's checkpoint by Emmett's own function, in the caller's transaction.

    `name` is the processor's id, or `id/version`. Raises Refused while it runs, or where it is
    ahead.
    """
    if processors != "emt_processors":
        raise Refused(
            "Emmett before 0.41 has no function that sets a checkpoint",
            hint="Build and verify with --no-switch, and switch by hand.",
        )
    found = _processor(connection, schema, name)
    if found.running:
        raise Refused(
            f"Emmett's processor {found.identity!r} is running",
            hint="Stop the application's projector first.",
        )
    # Checkpoints are padded with zeros, so that their texts compare as their positions do.
    text = _as_emmett_keeps_it(connection, schema, found.checkpoint, position)
    if found.checkpoint is not None and found.checkpoint > text:
        raise Refused(
            f"{found.identity} is at {found.checkpoint}, ahead of {text}",
            hint="Run it again with --resume: green catches up first.",
        )
    answer = connection.execute(
        sql.SQL("SELECT {}(%s, %s, %s, %s, pg_current_xact_id(), %s, %s)").format(
            _C(schema, "store_processor_checkpoint")
        ),
        (found.identity, found.version, text, found.checkpoint, found.partition, "esops"),
    ).fetchone()
    # 0: it was set before; 1: moved. All else: somebody has moved the row since it was read.
    if answer is None or answer[0] not in (0, 1):
        raise Refused(
            f"Emmett did not accept the checkpoint of {found.identity!r}: its function answered "
            f"{answer[0] if answer else None}"
        )


class _Processor(NamedTuple):
    identity: str
    version: int
    partition: str
    checkpoint: str | None
    running: bool


def _processor(connection: psycopg.Connection, schema: str, name: str) -> _Processor:
    """The one processor of that name, its row locked. Raises Refused where there is none, or where
    several versions or partitions have that name.
    """
    identity, _, version = (
        name.rpartition("/") if name.rpartition("/")[2].isdigit() else (name, "", "")
    )
    table = _C(schema, "emt_processors")
    rows = connection.execute(
        sql.SQL(
            "SELECT version, partition, last_processed_checkpoint, status = 'running' AND "
            "last_updated > clock_timestamp() - %s "
            "FROM {} WHERE processor_id = %s AND (%s = '' OR version::text = %s) FOR UPDATE"
        ).format(table),
        (_TAKEN_OVER_AFTER, identity, version, version),
    ).fetchall()
    # It would look like a mistyped name, while there is such a projection.
    if not rows and (status := inline.status(connection, schema, identity.removeprefix(PROJECTOR))):
        raise Refused(
            f"Emmett writes the projection {identity!r} inline, with each append ({status}): it "
            "has no checkpoint to hand over",
            hint='Set live = "inline", and leave out `checkpoint`.',
        )
    if len(rows) != 1:
        known = connection.execute(
            sql.SQL("SELECT DISTINCT processor_id FROM {}").format(table)
        ).fetchall()
        what = "several versions or partitions of the processor" if rows else "no processor"
        hint = "Name id/version." if rows else nearest(identity, [row[0] for row in known])
        raise Refused(f"Emmett has {what} {identity!r}", hint=hint)
    return _Processor(identity, *rows[0])


def _as_emmett_keeps_it(
    connection: psycopg.Connection, schema: str, current: str | None, position: Position
) -> str:
    """A checkpoint in the form of the row that is there.

    Up to 0.42 it is a global position alone, in an order that is not that of the log. It becomes
    the highest position below which nothing is unprocessed, so that the application may see some
    events again and misses none.
    """
    if len(position) == 1:
        return f"{position[0]:019d}"
    if current is not None and _PAIR.match(current):
        return f"{position[0]:020d}:{position[1]:019d}"
    row = connection.execute(
        sql.SQL(
            "SELECT coalesce(min(global_position) FILTER (WHERE (transaction_id, global_position) "
            "> (%s::text::xid8, %s)) - 1, "
            "max(global_position), 0) FROM {}"
        ).format(_C(schema, "emt_messages")),
        (str(position[0]), position[1]),
    ).fetchone()
    assert row is not None
    return f"{row[0]:019d}"
