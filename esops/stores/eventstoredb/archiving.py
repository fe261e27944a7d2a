"""Streams out of EventStoreDB and back: read whole for an archive, truncated, deleted or
tombstoned, and made readable again.

What is taken out here can be read again until a scavenge: that is the way back. After it, events
can be appended to another store alone,
since a stream's versions go on after those that it had.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import orjson

from esops.errors import Refused, UsageError
from esops.events import RecordedEvent, StreamKey, StreamRef
from esops.stores.base import RemovalStrategy, Removed, VersionRange, WrongExpectedVersion
from esops.stores.eventstoredb import bulk, lookup
from esops.stores.eventstoredb.errors import StreamGone

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.stores.eventstoredb.connect import Link
    from esops.stores.eventstoredb.store import EventStoreDBStore

COLUMNS = ["content_type"]
_ROWS = 4_096
WAYS = {
    "truncate": RemovalStrategy(
        "truncate",
        keeps=1,
        what="sets $tb, so that reads of a stream begin at its last event",
        statements=[
            (
                'append to $$<stream>: $metadata {…, "$tb": <last version>}, expecting the version '
                "that was read"
            )
        ],
    ),
    "delete": RemovalStrategy(
        "delete",
        whole=True,
        what="deletes streams softly: nothing can be read, the name can be used again, versions "
        "go on",
        statements=["Delete <stream>, expecting its last version"],
    ),
    "tombstone": RemovalStrategy(
        "tombstone",
        whole=True,
        what="deletes streams for ever: their names can never be used again",
        statements=["Tombstone <stream>, expecting its last version"],
    ),
}


def export(
    link: Link, streams: Iterable[StreamRef], columns: Sequence[str] | None
) -> Iterator[pa.RecordBatch]:
    """Streams as they are, links unresolved; events of several short streams share a batch."""
    from esops.archive_format import schema as archived

    names = COLUMNS if columns is None else list(columns)
    if missing := [name for name in names if name not in COLUMNS]:
        raise Refused(f"this store keeps no {missing[0]!r} of an event, which the archive has")
    schema = archived.schema_with(names)
    waiting: list[tuple[RecordedEvent, str]] = []
    for wanted in streams:
        with contextlib.suppress(StreamGone):
            for event, content_type in _events(link, wanted.stream):
                waiting.append((event, content_type))
                if len(waiting) >= _ROWS:
                    yield _batch(waiting, schema)
                    waiting = []
    if waiting:
        yield _batch(waiting, schema)


def _events(link: Link, stream: str) -> Iterator[tuple[RecordedEvent, str]]:
    request = bulk.read_stream_request(stream)
    with contextlib.closing(
        bulk.Messages(link, request, f"read stream {stream!r}").each()
    ) as messages:
        for message in messages:
            if message.WhichOneof("content") == "event" and message.event.HasField("event"):
                yield (
                    bulk.to_event(message.event.event),
                    message.event.event.metadata["content-type"],
                )


def _batch(events: Sequence[tuple[RecordedEvent, str]], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    from esops.archive_format import schema as archived

    ids, texts = archived.split_ids(pa.array([event.id for event, _ in events], pa.string()))
    count = len(events)
    columns = [
        pa.array([event.stream for event, _ in events]),
        pa.array([""] * count),
        pa.array([event.version for event, _ in events], pa.int64()),
        pa.array([event.position[0] for event, _ in events], pa.int64()),
        pa.array([event.position[1] for event, _ in events], pa.int64()),
        pa.array([event.type for event, _ in events]),
        ids,
        texts,
        pa.array(
            [round(event.recorded_at.timestamp() * 1e6) for event, _ in events], pa.int64()
        ).cast(pa.timestamp("us", "UTC")),
        pa.array([event.data for event, _ in events], pa.binary()),
        pa.array([event.metadata for event, _ in events], pa.binary()),
        pa.array([False] * count),
        pa.array([content_type for _, content_type in events]),
    ]
    return pa.RecordBatch.from_arrays(columns[: len(schema)], schema=schema)


def rows(link: Link, streams: Sequence[StreamKey]) -> dict[tuple[str, str], str]:
    """Streams' metadata, as JSON text."""
    found = {key: lookup.metadata(link, key.stream)[0] for key in streams}
    return {key: orjson.dumps(document).decode() for key, document in found.items()}


def remove(store: EventStoreDBStore, how: str, parts: Sequence[VersionRange]) -> list[Removed]:
    """Take streams out; a stream goes with its last part."""
    return [_remove(store, how, part) for part in parts]


def _remove(store: EventStoreDBStore, how: str, part: VersionRange) -> Removed:
    name, events = part.key.stream, part.high - part.low + 1
    if not part.ends:
        return Removed(part, events, None)
    info = store.stream_info(name)
    if info is None:
        return Removed(part, 0, "it is gone")
    if info.deleted:
        return Removed(part, events, None)  # by a run before
    if info.last_version != part.last_version:
        reason = (
            f"it changed since it was archived: at version {info.last_version}, not "
            f"{part.last_version}"
        )
        return Removed(part, 0, reason)
    try:
        if how == "truncate":
            if info.first_version <= part.high:
                store.truncate(name, part.high + 1)
        elif how == "delete":
            store.delete(name, part.last_version)
        else:
            store.tombstone(name, part.last_version)
    except WrongExpectedVersion as wrong:
        return Removed(part, 0, f"it changed at this moment: {wrong.message}")
    return Removed(part, events, None)


def restore_streams(
    store: EventStoreDBStore,
    streams: Sequence[StreamKey],
    documents: Sequence[str | None],
    batches: Iterable[pa.RecordBatch],
) -> int:
    """Make streams readable again by the metadata that they had.

    Raises Refused where a scavenge has removed events.
    """
    wanted: dict[str, tuple[int, int]] = {}
    for batch in batches:
        for name, version in zip(
            batch.column("stream").to_pylist(), batch.column("version").to_pylist(), strict=True
        ):
            low, high = wanted.get(name, (version, version))
            wanted[name] = (min(low, version), max(high, version))
    before = 0
    for key, document in zip(streams, documents, strict=True):
        low, high = wanted[key.stream]
        info = store.stream_info(key.stream)
        if info is None or info.deleted == "tombstone":
            state = "was tombstoned" if info is not None else "is not there"
            raise Refused(
                f"stream {key.stream} {state}, and cannot come back under its name",
                hint="Restore --into another store.",
            )
        now, version = store.metadata(key.stream)
        store.set_metadata(
            key.stream, orjson.loads(document or "{}"), -1 if version is None else version
        )
        after = store.stream_info(key.stream)
        if (
            after is None
            or after.deleted
            or not after.length
            or after.first_version > low
            or after.last_version < high
        ):
            store.set_metadata(key.stream, now)
            raise Refused(
                f"stream {key.stream}: a scavenge has removed its events, and their versions "
                "cannot be used again",
                hint="Restore --into another store.",
            )
        before += (info.length if not info.deleted else 0) - after.length
    return -before


def removal_strategy(how: str) -> RemovalStrategy:
    """A way out. Raises UsageError for an unknown one."""
    if how not in WAYS:
        raise UsageError(
            f"EventStoreDB has no way {how!r} to take streams out",
            hint=f"Ways: {', '.join(sorted(WAYS))}; or keep.",
        )
    return WAYS[how]
