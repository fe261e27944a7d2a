"""Keys that are named by their streams, or by the time of their events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta

from esops.check.context import CheckContext
from esops.check.tables import KeyText
from esops.errors import Refused, UsageError
from esops.events import Position, StreamKey
from esops.postgres.connection import translated
from esops.projections.definition import FoldDefinition
from esops.readmodel.rows import BadEvent
from esops.stores.base import require


def streams_since(context: CheckContext, since: timedelta) -> list[str]:
    """The streams with events of the time since."""
    store = context.store
    lengths = require(store, store.lengths, "lengths")
    began = store.ping().clock - since
    found = lengths.grown(began, 0, replace(context.scratch.filter, types=()))
    return sorted({info.name for info, _ in found})


def keys_of_streams(context: CheckContext, names: Iterable[str]) -> list[KeyText]:
    """The keys of the rows that events of some streams change.

    Raises UsageError for a kind of which nobody knows which rows these are.
    """
    scratch = context.scratch
    if not isinstance(scratch.definition, FoldDefinition):
        raise UsageError(
            "only of a fold is it known which rows are of which streams",
            hint="Name the rows with --keys, or check a sample.",
        )
    until = context.standing.position()
    with translated():
        scratch.look_at_skipped()
    found: set[KeyText] = set()
    for name in dict.fromkeys(names):
        if scratch.by_stream:
            found |= {scratch.key(each) for each in _streams(context, name, until)}
            continue
        for batch in context.store.read_all(None, until, replace(scratch.filter, stream=name)):
            try:
                found |= scratch.keys_of(batch.events) if batch.events else set()
            except BadEvent as bad:
                raise Refused(f"the code fails on an event: {bad.reason}") from bad.__cause__
    return sorted(found)


def _streams(context: CheckContext, name: str, until: Position) -> set[StreamKey]:
    if not context.store.capabilities.tenants:
        return {StreamKey(name)}
    of_stream = replace(context.scratch.filter, stream=name, types=(), archived=True)
    return {
        StreamKey(event.stream, event.tenant)
        for batch in context.store.read_all(None, until, of_stream)
        for event in batch.events
    }


def check_widths(keys: Sequence[KeyText], columns: Sequence[str]) -> None:
    """Raises UsageError for a key with more or fewer values than the table's key has columns."""
    for key in keys:
        if len(key) != len(columns):
            named = ", ".join(columns)
            raise UsageError(
                f"the key {list(key)!r} has {len(key)} values, and the table's has "
                f"{len(columns)}: {named}",
                hint="Give a key of several columns as JSON, a line each: --keys-from FILE with "
                '["acme", "cart-1"].',
            )
