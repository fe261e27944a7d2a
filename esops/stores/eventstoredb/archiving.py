"""Streams out of EventStoreDB and back: read whole for an archive, truncated, deleted or
tombstoned, and made readable again.

Events that are removed here can be restored until a scavenge. After a scavenge they can only be
appended to another store, since a stream never reuses versions.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import orjson
import pyarrow as pa

from esops.archive_format.schema import StreamRow
from esops.errors import ConnectionLost, Denied, Refused, UsageError
from esops.events import RecordedEvent, StreamKey, StreamRef
from esops.stores.archive_batches import to_archive
from esops.stores.archiving import (
    ArchivedGroup,
    HeadRemoval,
    RemovalStrategy,
    Removed,
    Renumbered,
    VersionRange,
)
from esops.stores.base import WrongExpectedVersion
from esops.stores.eventstoredb import bulk, lookup
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.errors import StreamGone

if TYPE_CHECKING:
    from esops.stores.eventstoredb.store import EventStoreDBStore

_CONTENT_TYPE = "content_type"
_ROWS = 4_096
_LIMITS = ("$maxAge", "$maxCount")
_TRUNCATE = (
    'append to $$<stream>: $metadata {{…, "$tb": <{}>}}, expecting the version that was read'
)
_REMOVALS = {
    "truncate": RemovalStrategy(
        "truncate",
        keeps=1,
        at_once=True,
        heads=HeadRemoval(
            what="sets $tb, so that reads of a stream begin at the first event that stays",
            statements=[_TRUNCATE.format("first version that stays")],
        ),
        what="sets $tb, so that reads of a stream begin at its last event",
        statements=[_TRUNCATE.format("last version")],
        reuse="continues",
    ),
    "delete": RemovalStrategy(
        "delete",
        whole=True,
        what="deletes streams softly: nothing can be read, the name can be used again, and "
        "versions continue",
        statements=["Delete <stream>, expecting its last version"],
        reuse="continues",
    ),
    "tombstone": RemovalStrategy(
        "tombstone",
        whole=True,
        what="deletes streams for ever: their names can never be used again",
        statements=["Tombstone <stream>, expecting its last version"],
        reuse="refused",
    ),
}


class NodeArchiving:
    """Archiving of an EventStoreDB store."""

    removals = tuple(sorted(_REMOVALS))
    restores: Literal["in place"] = "in place"

    def __init__(
        self,
        store: EventStoreDBStore,
        connector: Connector,
    ) -> None:
        """`connector` gives links to the node."""
        self._store, self._connector = store, connector

    def extra_columns(self) -> list[str]:
        """One: the content type, which tells JSON from binary."""
        return [_CONTENT_TYPE]

    def export(
        self, streams: Iterable[StreamRef], columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Streams as they are, links unresolved; events of several short streams share a batch."""
        for name in columns or ():
            if name != _CONTENT_TYPE:
                raise Refused(
                    f"the archive has {name!r} for each event, and this store cannot keep it"
                )
        # Archives from other stores may have no content type: then it is not part of what is
        # compared.
        typed = columns is None or _CONTENT_TYPE in columns
        try:
            yield from _batches(self._connector.link, streams, typed=typed)
        except ConnectionLost as lost:
            self._connector.lost(lost)
            raise

    def stream_rows(self, streams: Sequence[StreamKey]) -> Mapping[tuple[str, str], StreamRow]:
        """The metadata stream of each stream: its limits, ACL and truncation."""
        with self._connector.talking("read streams' metadata") as link:
            found = {key: lookup.metadata(link, key.stream)[0] for key in streams}
        return {key: StreamRow(orjson.dumps(document).decode()) for key, document in found.items()}

    def removal_strategy(self, removal: str) -> RemovalStrategy:
        """Truncate, delete or tombstone."""
        if removal not in _REMOVALS:
            raise UsageError(
                f'EventStoreDB does not support remove = "{removal}"',
                hint=f"It supports: {', '.join(['keep', *self.removals])}.",
            )
        return _REMOVALS[removal]

    def head_limits(self, removal: str, streams: Sequence[StreamKey]) -> Mapping[StreamKey, int]:  # noqa: ARG002
        """All but the last event: clients read what there is."""
        found = {key: self._store.stream_info(key.stream) for key in streams}
        return {key: info.last_version - 1 for key, info in found.items() if info is not None}

    def remove(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,  # noqa: ARG002 - nothing is locked here
        statement_timeout: timedelta,  # noqa: ARG002
    ) -> list[Removed]:
        """Stream by stream, each expecting its last version; a stream goes with its last range."""
        for part in parts:
            # Events never change here: they have only to be in the archive.
            deque(part.events, 0)
        return [self._remove(removal, part) for part in parts]

    def _remove(self, removal: str, part: VersionRange) -> Removed:
        # Each stream has rights of its own, and the others can go.
        try:
            return self._remove_allowed(removal, part)
        except Denied as denied:
            return Removed(part, 0, denied.message, lasting=True)

    def _remove_allowed(self, removal: str, part: VersionRange) -> Removed:
        name, events = part.key.stream, part.high - part.low + 1
        info = self._store.stream_info(name)
        if info is None:
            return Removed(part, 0, "it is gone")
        if info.deleted:
            if part.head:
                return Removed(part, 0, "it was deleted since it was archived")
            return Removed(part, events, None)  # by an earlier run
        # Nothing locks a stream here, so this is a first look; the call below states the version
        # again, and the server decides.
        if part.head and info.last_version <= part.last_version:
            return Removed(part, 0, f"nothing would be left of it: at version {info.last_version}")
        if not part.head and info.last_version != part.last_version:
            reason = (
                f"it changed since it was archived: at version {info.last_version}, not "
                f"{part.last_version}"
            )
            return Removed(part, 0, reason)
        changes = self._store.changes
        try:
            if removal == "truncate":
                # A run that was killed after the truncation comes here again: it is done.
                if info.first_version <= part.high:
                    changes.truncate(name, part.high + 1)
            elif removal == "delete":
                changes.delete(name, part.last_version)
            else:
                changes.tombstone(name, part.last_version)
        except WrongExpectedVersion as wrong:
            return Removed(
                part, 0, f"it was changed by another writer at the same time: {wrong.message}"
            )
        except StreamGone:
            return Removed(part, 0, "another writer tombstoned it at the same time")
        return Removed(part, events, None)

    def obstacles(self, removal: str, parts: Sequence[VersionRange]) -> Mapping[StreamKey, str]:
        """Streams that this user has no right to remove."""
        tried = (self._try(removal, part) for part in parts)
        return {each.part.key: each.reason for each in tried if each.reason is not None}

    def try_removal(
        self,
        removal: str,
        parts: Sequence[VersionRange],
        lock_timeout: timedelta,  # noqa: ARG002
        statement_timeout: timedelta,  # noqa: ARG002
    ) -> list[Removed]:
        """Only whether this user has the right: nothing else of a removal can be tried without
        being done.
        """
        return [self._try(removal, part) for part in parts]

    def _try(self, removal: str, part: VersionRange) -> Removed:
        try:
            self._store.changes.check_right(removal, part.key.stream)
        except Denied as denied:
            return Removed(part, 0, denied.message, lasting=True)
        except StreamGone:
            pass  # the removal says so itself
        return Removed(part, part.high - part.low + 1, None)

    def prove(self, rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]) -> int:  # noqa: ARG002
        """Nothing to try: events become readable again where they always were."""
        return 0

    def check_room(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Nothing can be in the way: events become readable again where they always were."""

    def restore_streams(
        self,
        streams: Sequence[StreamKey],
        rows: Sequence[str | None] | None,
        batches: Iterable[pa.RecordBatch],
    ) -> int:
        """Make streams readable again from where they began, by their metadata.

        Raises Refused where a scavenge has removed events, or newer limits hide them.
        """
        wanted = _versions(batches)
        documents = rows or [None] * len(streams)
        return sum(
            self._restore(key.stream, document, *wanted[key.stream])
            for key, document in zip(streams, documents, strict=True)
        )

    def restore_renumbered(
        self,
        groups: Iterable[ArchivedGroup],  # noqa: ARG002 - refused
        *,
        skip_conflicts: bool,  # noqa: ARG002
        confirm: Callable[[], None],  # noqa: ARG002
    ) -> Renumbered:
        """Raises UsageError: a node gives no position twice."""
        raise UsageError(
            "--renumber does nothing for EventStoreDB: events become readable again at their own "
            "positions, which no other event can have",
            hint="Leave out --renumber.",
        )

    def _restore(self, stream: str, document: str | None, low: int, high: int) -> int:
        changes, info = self._store.changes, self._store.stream_info(stream)
        if info is None or info.deleted == "tombstone":
            state = "was tombstoned" if info is not None else "is not there"
            raise Refused(
                f"stream {stream} {state}, so it cannot be restored under its name",
                hint="Restore into another store with --into.",
            )
        # Truncation and soft deletion are nothing but `$tb` in the metadata, so without it events
        # are readable, as long as they are on disk. Nothing else of it is a run's: rights and
        # limits are what the stream was given since.
        now, version = changes.metadata(stream)
        was = orjson.loads(document or "{}")
        first = was.get("$tb", 0)
        if not info.deleted and info.last_version > high:
            first = low  # the stream has continued
        wanted = {key: value for key, value in now.items() if key != "$tb"}
        wanted |= {"$tb": first} if first else {}
        changes.set_metadata(stream, wanted, -1 if version is None else version)
        after = self._store.stream_info(stream)
        if (
            after is None
            or after.deleted
            or not after.length
            or after.first_version > low
            or after.last_version < high
        ):
            # As it was found: a restore that does not succeed changes nothing. Where somebody has
            # written them in between, theirs stay.
            with contextlib.suppress(WrongExpectedVersion):
                changes.set_metadata(stream, now, 0 if version is None else version + 1)
            raise _unreadable(stream, {each: now[each] for each in _LIMITS if each in now})
        # Only what came back counts: a truncated stream still had its last events.
        return after.length - (0 if info.deleted else info.length)


def _unreadable(stream: str, limits: Mapping[str, object]) -> Refused:
    """Events of a stream did not become readable, under the limits of its metadata."""
    if not limits:
        return Refused(
            f"stream {stream}: a scavenge has removed its events, so they cannot be restored "
            "with the same versions",
            hint="Restore into another store with --into.",
        )
    named = ", ".join(f"{key} {value}" for key, value in limits.items())
    return Refused(
        f"stream {stream}: not all of its events would come back: its metadata limit what can be "
        f"read ({named}), or a scavenge has removed events",
        hint="Its metadata are as they were. Take the limits away and restore it again, or restore "
        "into another store with --into.",
    )


def _versions(batches: Iterable[pa.RecordBatch]) -> dict[str, tuple[int, int]]:
    """The first and the last version of each stream in batches."""
    found: dict[str, tuple[int, int]] = {}
    for batch in batches:
        columns = (batch.column("stream").to_pylist(), batch.column("version").to_pylist())
        for name, version in zip(*columns, strict=True):
            low, high = found.get(name, (version, version))
            found[name] = (min(low, version), max(high, version))
    return found


def _batches(link: Link, streams: Iterable[StreamRef], *, typed: bool) -> Iterator[pa.RecordBatch]:
    waiting: list[tuple[RecordedEvent, str]] = []
    for wanted in streams:
        # A stream that was tombstoned since it was listed has nothing that could be archived.
        with contextlib.suppress(StreamGone):
            for each in _events(link, wanted.stream, wanted.last):
                waiting.append(each)
                if len(waiting) >= _ROWS:
                    yield _batch(waiting, typed=typed)
                    waiting = []
    if waiting:
        yield _batch(waiting, typed=typed)


def _batch(events: Sequence[tuple[RecordedEvent, str]], *, typed: bool) -> pa.RecordBatch:
    extra = {_CONTENT_TYPE: [content_type for _, content_type in events]} if typed else {}
    return to_archive([event for event, _ in events], extra)


def _events(link: Link, stream: str, last: int | None) -> Iterator[tuple[RecordedEvent, str]]:
    request = bulk.read_stream_request(stream)
    with contextlib.closing(
        bulk.Messages(link, request, f"read stream {stream!r}").each()
    ) as messages:
        for message in messages:
            if message.WhichOneof("content") == "event" and message.event.HasField("event"):
                event = bulk.to_event(message.event.event)
                if last is not None and event.version > last:
                    return
                yield event, message.event.event.metadata["content-type"]
