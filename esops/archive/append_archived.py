"""Archived streams appended to a store of another kind, which numbers the events itself.

Flat in memory: some hundred events at a time, however long a stream is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.archived_groups import Group, groups_of
from esops.archive.compare import RowReader
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.errors import Refused
from esops.events import NewEvent, RecordedEvent, StreamKey
from esops.stores.archive.reading import events_from
from esops.stores.base import EventStore, missing

_AT_ONCE = 200


class Appender:
    """Appends streams to one store."""

    def __init__(self, run: Run, manifest: Manifest, store: EventStore) -> None:
        """Raises MissingCapability where the store takes no events."""
        if not store.capabilities.append:
            raise missing(store, "append")
        self._run, self._manifest, self._store = run, manifest, store

    def unfit(self, requested: frozenset[str]) -> Iterator[tuple[StreamKey, str]]:
        """The streams that no other store can take, with what speaks against it: a read of all."""
        for group in groups_of(self._run, self._manifest, requested):
            for key in dict.fromkeys(chain.from_iterable(map(_hidden, group.batches))):
                reason = (
                    f"stream {key.stream} holds rows that are not events (gap fillers, skipped "
                    "events), and another store cannot take them"
                )
                yield key, reason

    def streams(self, group: Group) -> Iterator[tuple[Digest, Iterator[pa.RecordBatch]]]:
        """Each stream of a group with its events, which can be read once."""
        rows = RowReader(group.batches)
        for digest in group.digests:
            batches = rows.next(digest.events)
            yield digest, batches
            for _ in batches:
                pass

    def append(self, digest: Digest, batches: Iterator[pa.RecordBatch]) -> int:
        """Append what the store lacks of a stream; returns how many events that were.

        Raises Refused, before anything is written, where it has other events under this name.
        """
        written = self._appended_before(digest)
        events = (event for batch in batches for event in events_from(batch, self._manifest))
        if written:
            # A restore that was killed leaves the beginning of a stream, and is resumed. Any
            # other events belong to somebody else.
            self._check_beginning(digest, islice(events, written), written)
        version = self._store.capabilities.first_version + written - 1
        appended = 0
        while some := list(islice(events, _AT_ONCE)):
            new = [
                NewEvent(event.id, event.type, event.data, event.metadata or b"{}")
                for event in some
            ]
            self._store.append(digest.stream, new, version + appended)
            appended += len(some)
        return appended

    def _appended_before(self, digest: Digest) -> int:
        """How many events of a stream the store has already, such as from a killed restore.

        Raises Refused if the stream cannot be restored by appending.
        """
        store, base = self._store, self._store.capabilities.first_version
        if digest.first_version != self._manifest.first_version:
            raise Refused(
                f"stream {digest.stream} begins at version {digest.first_version} in the archive, "
                f"and store {store.name} would count its events from {base}",
                hint=f"Restore it into store {self._manifest.store}.",
            )
        here = store.stream_info(digest.stream)
        written = 0 if here is None else here.last_version - base + 1
        if written > digest.events or (here is not None and here.first_version != base):
            raise self._exists(digest)
        return written

    def _check_beginning(
        self, digest: Digest, expected: Iterator[RecordedEvent], written: int
    ) -> None:
        """Raises Refused if the events that the store has are not the archived ones."""
        in_store = self._store.read_stream(digest.stream, limit=written)
        for event, here in zip(expected, in_store, strict=False):
            if event.id != here.id:
                raise self._exists(digest)

    def _exists(self, digest: Digest) -> Refused:
        return Refused(
            f"store {self._store.name} already has a stream {digest.stream} with other events",
            hint="Restore into a store that does not have this stream, or leave such streams out: "
            "--skip-conflicts.",
        )


def _hidden(batch: pa.RecordBatch) -> Iterator[StreamKey]:
    if pc.any(batch.column("hidden")).as_py():
        found = batch.filter(batch.column("hidden"))
        names = (found.column(name).to_pylist() for name in ("stream", "tenant"))
        yield from map(StreamKey, *names)
