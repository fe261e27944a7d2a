"""How streams leave the store in memory, and come back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import orjson

from esops.archive_format.schema import StreamRow
from esops.errors import Refused, UsageError
from esops.events import Position, RecordedEvent, StreamKey, StreamRef
from esops.stores.archiving import (
    ArchivedGroup,
    HeadRemoval,
    RemovalStrategy,
    Removed,
    Renumbered,
    VersionRange,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from esops.testing.memory import MemoryStore

_BATCH_EVENTS = 1_000
_REMOVALS = {
    "archive": RemovalStrategy("archive", whole=True, what="marks streams as archived"),
    "delete": RemovalStrategy(
        "delete",
        heads=HeadRemoval("deletes the first events of streams that continue"),
        what="deletes events; versions continue after them",
    ),
}


class MemoryArchiving:
    """Archiving of one store: streams are marked, or their events are deleted."""

    removals = tuple(_REMOVALS)
    restores: Literal["anywhere"] = "anywhere"

    def __init__(self, name: str, store: MemoryStore) -> None:
        self._name, self._store, self.log = name, store, store.log

    def extra_columns(self) -> list[str]:
        """An event has no extra columns here."""
        return []

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """A batch a stream."""
        from esops.stores.archive_batches import to_archive

        if columns:
            raise Refused(
                f"the archive has {columns[0]!r} for each event, and this store cannot keep it"
            )
        for each in streams:
            if each.stream not in self.log.archived:
                events = [
                    event
                    for event in self._store.read_stream(each.stream)
                    if each.last is None or event.version <= each.last
                ]
                for at in range(0, len(events), _BATCH_EVENTS):
                    yield to_archive(events[at : at + _BATCH_EVENTS])

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], StreamRow]:
        """The version that each stream has come to."""
        return {
            key: StreamRow(orjson.dumps({"version": self.log.versions[key.stream]}).decode())
            for key in streams
            if key.stream in self.log.versions
        }

    def removal_strategy(self, removal: str) -> RemovalStrategy:
        """Archive or delete."""
        if removal not in _REMOVALS:
            raise UsageError(f"store {self._name} cannot remove streams by {removal!r}")
        return _REMOVALS[removal]

    def head_limits(self, removal: str, streams: Sequence[StreamKey]) -> Mapping[StreamKey, int]:  # noqa: ARG002
        """All but the last event."""
        return {key: self.log.versions[key.stream] - 1 for key in streams}

    def remove(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,  # noqa: ARG002 - one lock, held for a moment
        statement_timeout: timedelta,  # noqa: ARG002
    ) -> list[Removed]:
        """Under the log's lock."""
        with self.log.lock:
            return [self._remove(removal, part) for part in parts]

    def _remove(self, removal: str, part: VersionRange) -> Removed:
        log, stream = self.log, part.key.stream
        version = log.versions.get(stream)
        if version is None:
            return Removed(part, 0, "it is gone")
        if version <= part.last_version if part.head else version != part.last_version:
            reason = f"it changed since it was archived: at version {version}, not "
            return Removed(part, 0, f"{reason}{part.last_version}")
        if removal == "archive":
            log.archived.add(stream)
            return Removed(part, part.high - part.low + 1, None)
        # In place: a test may hold on to the list.
        log.events[:] = [
            event
            for event in log.events
            if event.stream != stream or not part.low <= event.version <= part.high
        ]
        # With its last event a stream is closed, or the next append would use its versions again.
        if part.ends and part.high == part.last_version and not part.head:
            log.archived.add(stream)
        return Removed(part, part.high - part.low + 1, None)

    def obstacles(self, removal: str, parts: Sequence[VersionRange]) -> Mapping[StreamKey, str]:  # noqa: ARG002
        """No rows elsewhere refer to a stream."""
        return {}

    def try_removal(
        self,
        removal: str,  # noqa: ARG002
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,  # noqa: ARG002
        statement_timeout: timedelta,  # noqa: ARG002
    ) -> list[Removed]:
        """Nothing can be tried without being done, and no rows elsewhere refer to a stream."""
        return [Removed(part, part.high - part.low + 1, None) for part in parts]

    def prove(self, rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]) -> int:  # noqa: ARG002
        """Nothing to try: events become readable again where they always were."""
        return 0

    def check_room(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Positions that other events have."""
        from esops.stores.archive_batches import from_archive

        with self.log.lock:
            there = {event.position: event for event in self.log.events}
        for batch in batches:
            for event in from_archive(batch, 1):
                other = there.get(event.position, event)
                if (other.stream, other.version) != (event.stream, event.version):
                    raise Refused(f"the store has another event at position {event.position}")

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None] | None,  # noqa: ARG002 - a stream's version is that of its last event
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """At their old positions."""
        from esops.stores.archive_batches import from_archive

        restored = 0
        # All or nothing: a reader waits for the lock.
        with self.log.lock:
            self.log.archived -= {key.stream for key in streams}
            there = {(event.stream, event.version): event for event in self.log.events}
            for batch in batches:
                for event in from_archive(batch, 1):
                    other = there.get((event.stream, event.version))
                    if other is None:
                        self._restore(event)
                        restored += 1
                    elif other.id != event.id:
                        raise Refused(
                            f"stream {event.stream} has another event at version {event.version}"
                        )
        return restored

    def restore_renumbered(
        self,
        groups: Iterable[ArchivedGroup],
        *,
        skip_conflicts: bool,
        confirm: Callable[[], None],
    ) -> Renumbered:
        """After all others, under the log's lock."""
        from esops.stores.archive_batches import from_archive

        with self.log.lock:
            there = {(event.stream, event.version): event.id for event in self.log.events}
            waiting: list[RecordedEvent] = []
            conflicts: dict[StreamKey, str] = {}
            keys: set[StreamKey] = set()
            for group in groups:
                keys |= {*group.keys}
                waiting += [event for batch in group.batches for event in from_archive(batch, 1)]
            confirm()
            for event in waiting:
                if there.get((event.stream, event.version), event.id) != event.id:
                    reason = f"the store has another event at version {event.version}"
                    if not skip_conflicts:
                        raise Refused(f"stream {event.stream}: {reason}")
                    conflicts[StreamKey(event.stream)] = reason
            self.log.archived -= {key.stream for key in keys - conflicts.keys()}
            put = 0
            for event in sorted(waiting, key=position_of):
                if (event.stream, event.version) in there or StreamKey(event.stream) in conflicts:
                    continue
                self._restore(event._replace(position=Position([self.log.drawn + 1])))
                put += 1
        return Renumbered(len(keys) - len(conflicts), put, conflicts)

    def _restore(self, event: RecordedEvent) -> None:
        log = self.log
        log.events.insert(bisect_right(log.events, event.position, key=position_of), event)
        # New events get numbers after those that were restored.
        log.drawn = max(log.drawn, event.position[0])
        log.versions[event.stream] = max(log.versions.get(event.stream, 0), event.version)


def position_of(event: RecordedEvent) -> Position:
    """What the log is ordered by."""
    return event.position
