"""Emmett's processors: how far each is.

Facts: the library's own functions; see docs/reference/layouts.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from esops.events import Checkpoint, Position, StreamKey
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.statements import statements
from esops.stores.postgres.drawn import highest_drawn, in_words
from esops.stores.postgres.layouts.emmett.inline import PROJECTOR

_C = sql.Identifier
_SQL = statements(__package__, "processors")
_ALIVE: Mapping[str, Literal["yes", "no", "unknown"]] = {"stopped": "no"}
"""By the status."""
RUNNING = "its row says 'running', which one that was killed leaves as well"
_POLLED = timedelta(seconds=5)
PAIR = re.compile(r"(\d{20}):(\d{19})\Z")
"""A checkpoint since 0.43: the transaction and the number of a message."""
_NOT_STORED = "Emmett starts a version above 1 from the checkpoint of version 1, and stores none"


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
    sequence: sql.Identifier
    """What numbers the messages."""


def checkpoints(connection: psycopg.Connection, where: Processors) -> list[Checkpoint]:
    """Emmett's processors of the partitions that are read."""
    table = catalog.find_table(connection, where.schema, where.table)
    if table is None:
        return []
    rows = _rows(connection, where, table)
    handled = _handled(connection, where.schema)
    highest = highest_drawn(connection, (where.sequence,)) if rows else 0
    return [_checkpoint(connection, where, row, handled, highest) for row in rows]


def _rows(connection: psycopg.Connection, where: Processors, table: Table) -> list[tuple[Any, ...]]:
    """The name, version, checkpoint, status, time and partition of each processor."""
    # By the columns and not by a version, which the tables do not tell.
    identity = "processor_id" if table.has("processor_id") else "subscription_id"
    text = (
        "last_processed_checkpoint"
        if table.has("last_processed_checkpoint")
        else "last_processed_position"
    )
    state = _C("status") if table.has("status") else sql.SQL("'unknown'")
    updated = _C("last_updated") if table.has("last_updated") else sql.SQL("NULL::timestamptz")
    return connection.execute(
        sql.SQL(
            "SELECT {}, version, {}::text, {}, {}, partition FROM {} "
            "WHERE %(only)s::text IS NULL OR partition = %(only)s ORDER BY 1, 2, partition"
        ).format(_C(identity), _C(text), state, updated, _C(where.schema, where.table)),
        {"only": where.only},
    ).fetchall()


def _checkpoint(
    connection: psycopg.Connection,
    where: Processors,
    row: tuple[Any, ...],
    handled: Mapping[tuple[str, str], tuple[str, ...]],
    highest: int,
) -> Checkpoint:
    """Where one processor is. `handled`: the types of projections; `highest`: the highest number
    that was drawn.

    The text is a pair since 0.43, and the global position alone before, or where 0.43 registered a
    processor that has stored nothing yet.
    """
    name, version, checkpoint, status, updated_at, partition = row
    pair = PAIR.match(checkpoint or "")
    number = number_in(pair, checkpoint)
    projection = name.removeprefix(PROJECTOR) if name.startswith(PROJECTOR) else ""
    types = handled.get((projection, partition), ())
    at = {
        "partition": partition,
        "number": number,
        # Without the zeros before it: Postgres reads such a number as octal.
        "transaction": str(int(pair[1])) if pair else None,
        # From 0.43 on it moves over all that it reads. In the order of numbers nothing tells
        # here whether a lower one may still come.
        "types": None if pair or where.by_position or not types else [*types],
    }
    position, evidence = _stands(connection, where, at)
    if number is None:
        evidence = f"its checkpoint is {checkpoint or 'NULL'!r}, which is no position"
    beyond = beyond_all(connection, where.schema, at, highest)
    if beyond:
        position, evidence = None, beyond
    # Beside an unknown position it would say why that is unknown.
    if status == "running" and position is not None:
        evidence = evidence or RUNNING
    if version > 1:
        position, evidence = None, _NOT_STORED
    stream = None if pair or not number else _stream_at(connection, where, at)
    detail = {
        "version": str(version),
        "partition": partition,
        "form": "pair" if pair else "global position",
    }
    tenant = partition if where.tenants else ""
    return Checkpoint(
        name,
        position,
        status,
        updated_at,
        detail,
        tenant=tenant,
        types=types,
        alive=_ALIVE.get(status, "unknown"),
        evidence=evidence,
        beyond=bool(beyond) and version == 1,
        holds_stream=None if stream is None else StreamKey(stream, tenant),
    )


def signs_of_life(connection: psycopg.Connection, where: Processors, name: str) -> str:
    """What says that a processor may live; empty where nothing says so."""
    found = (each for each in checkpoints(connection, where) if each.called(name))
    if not any(each.state == "running" for each in found):
        return ""  # the sessions may be those of other processors
    # Postgres shows the sessions as they were when the transaction first asked for them.
    connection.execute("SELECT pg_stat_clear_snapshot()")
    reader = connection.execute(_SQL["readers"].encode(), {"within": _POLLED}).fetchone()
    if reader is None:
        return RUNNING
    who = f"session {reader[0]} of {reader[1]}"
    return f"{RUNNING}, and {who} reads new events as a consumer does"


def number_in(pair: re.Match[str] | None, checkpoint: str | None) -> int | None:
    """The number in a checkpoint; None where it has none that a message can have."""
    text = pair[2] if pair else checkpoint
    if text is None or not (text.isascii() and text.isdigit()):
        return None
    in_reach = int(text) < 2**63 and (pair is None or int(pair[1]) < 2**64)
    return int(text) if in_reach else None


def beyond_all(
    connection: psycopg.Connection, schema: str, at: Mapping[str, Any], highest: int
) -> str:
    """Why a checkpoint, a `number` with or without a `transaction`, is beyond all messages that
    there ever were; empty where it is not. `highest` is the highest number that was drawn.
    """
    if at["number"] is not None and at["number"] > highest:
        return in_words(at["number"], highest)
    if at["number"] is None or at["transaction"] is None:
        return ""
    asked = sql.SQL(_SQL["beyond"]).format(messages=_C(schema, "emt_messages"))
    row = connection.execute(asked, at).fetchone()
    beyond = row is not None and row[0]
    return f"the transaction {at['transaction']} of its checkpoint has not begun" if beyond else ""


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
