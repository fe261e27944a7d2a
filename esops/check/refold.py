"""The rows of a fold that is keyed by the stream, made again from all events of some streams, which
the store finds by its index.
"""

from __future__ import annotations

from collections.abc import Sequence

from esops.check.scratch import Scratch
from esops.events import Position, RecordedEvent, StreamKey
from esops.postgres.connection import translated
from esops.readmodel.rows import BadEvent
from esops.rebuild.refolded import pieces
from esops.running.user_schema import naming
from esops.stores.whole_streams import WholeStreams

_PIECE = 2_000
_FIRST, _AT_ONCE = 100, 20_000
"""Streams that are read first, and events of several streams that are in memory at once, about."""


def refold(scratch: Scratch, streams: Sequence[StreamKey], until: Position) -> dict[StreamKey, str]:
    """Make the rows of some streams from all their events up to a position, in the place of those
    that were made before.

    Returns the streams of which nobody knows the row, each with the reason: they have lost events,
    or the code fails on one. They have no row then.
    """
    scratch.empty()
    unknown: dict[StreamKey, str] = {}
    rest, size = list(streams), _FIRST
    while rest:
        some, rest = rest[:size], rest[size:]
        whole = scratch.store.many_streams.whole(
            some, until, scratch.filter, scratch.settings.begins_with
        )
        _add(scratch, whole, unknown)
        # As many streams as have about as many events as memory is for.
        size = max(1, min(_PIECE, _AT_ONCE * len(some) // max(1, len(whole.events))))
    return unknown


def refold_whole(scratch: Scratch, whole: WholeStreams) -> dict[StreamKey, str]:
    """As `refold`, of events that somebody else has read."""
    scratch.empty()
    unknown: dict[StreamKey, str] = {}
    _add(scratch, whole, unknown)
    return unknown


def _add(scratch: Scratch, whole: WholeStreams, unknown: dict[StreamKey, str]) -> None:
    """Write the rows of some streams' events; where the code fails, stream by stream."""
    unknown.update(whole.lacking)
    events = [
        each
        for each in whole.events
        if each.position not in scratch.skipped
        and StreamKey(each.stream, each.tenant) not in whole.lacking
    ]
    try:
        _write(scratch, events)
    except BadEvent:
        by_stream: dict[StreamKey, list[RecordedEvent]] = {}
        for each in events:
            by_stream.setdefault(StreamKey(each.stream, each.tenant), []).append(each)
        for stream, own in by_stream.items():
            try:
                _write(scratch, own)
            except BadEvent as bad:
                unknown[stream] = f"the code fails on one of its events: {bad.reason}"


def _write(scratch: Scratch, events: Sequence[RecordedEvent]) -> None:
    """In a transaction of its own: what is not written whole leaves nothing behind."""
    connection, fold = scratch.connection, scratch.new_fold()
    try:
        with translated(), naming(scratch.version_tables()), connection.transaction():
            for some in pieces(events, _PIECE):
                fold.apply(some, connection)
                if fold.full:
                    fold.flush(connection)
                    fold.flushed()
            fold.flush(connection)
        scratch.value_types |= fold.value_types
    finally:
        fold.close()
    scratch.events += len(events)
