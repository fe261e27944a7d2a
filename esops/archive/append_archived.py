"""Archived streams appended to a store of another kind, which numbers the events itself.

Flat in memory: some hundred events at a time, however long a stream is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.archived_groups import Group
from esops.archive.compare import RowReader
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.errors import Refused
from esops.events import NewEvent, RecordedEvent, StreamKey, is_uuid
from esops.stores.archive.reading import events_from
from esops.stores.base import EventStore, missing

_AT_ONCE = 200


class Appender:
    """Appends streams to one store."""

    def __init__(self, run: Run, manifest: Manifest, store: EventStore, home: str) -> None:
        """`home` is the store that the run came from, in words. Raises MissingCapability where
        the store takes no events.
        """
        if not store.capabilities.append:
            raise missing(store, "append")
        self._run, self._manifest, self._store = run, manifest, store
        self._hint = f"Restore it into {home}, or leave such streams out: --skip-conflicts."

    def unfit(self, group: Group) -> dict[StreamKey, Refused]:
        """The streams that this store cannot take, with what speaks against it: a read of all."""
        found = misnamed(group.digests, self._store)
        hint = self._hint
        base = self._store.capabilities.first_version
        for digest in group.digests:
            if digest.first_version != self._manifest.first_version:
                reason = (
                    f"stream {digest.stream} begins at version {digest.first_version} in the "
                    f"archive, and store {self._store.name} would count its events from {base}"
                )
                found.setdefault(digest.key, Refused(reason, hint=hint))
        for batch in group.batches:
            for key in map(StreamKey, *_names(batch.filter(batch.column("hidden")))):
                reason = (
                    f"stream {key.stream} holds rows that are not events (gap fillers, skipped "
                    "events), and another store cannot take them"
                )
                found.setdefault(key, Refused(reason, hint=hint))
            if self._store.capabilities.uuid_events:
                others = batch.filter(pc.is_valid(batch.column("id_text")))
                for stream, tenant, identifier in zip(
                    *_names(others), others.column("id_text").to_pylist(), strict=True
                ):
                    if not is_uuid(identifier):
                        reason = (
                            f"store {self._store.name} takes UUIDs as ids of events, and "
                            f"{identifier!r} of stream {stream} is none"
                        )
                        found.setdefault(StreamKey(stream, tenant), Refused(reason, hint=hint))
        return found

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
                NewEvent(event.id, event.type, event.data, event.metadata or b"{}", event.moment)
                for event in some
            ]
            self._store.append(digest.stream, new, version + appended)
            appended += len(some)
        return appended

    def _appended_before(self, digest: Digest) -> int:
        """How many events of a stream the store has already, such as from a killed restore.

        Raises Refused where it has another stream under this name.
        """
        store, base = self._store, self._store.capabilities.first_version
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
            same = event.id == here.id
            if not self._store.capabilities.keeps_ids:
                same = (event.type, event.data) == (here.type, here.data)
            if not same:
                raise self._exists(digest)

    def _exists(self, digest: Digest) -> Refused:
        return Refused(
            f"store {self._store.name} already has a stream {digest.stream} with other events",
            hint="Restore into a store that does not have this stream, or leave such streams out: "
            "--skip-conflicts.",
        )


def _names(batch: pa.RecordBatch) -> tuple[list[str], list[str]]:
    return batch.column("stream").to_pylist(), batch.column("tenant").to_pylist()


def misnamed(digests: Sequence[Digest], store: EventStore) -> dict[StreamKey, Refused]:
    """The streams that a store cannot have under their names."""
    if not store.capabilities.uuid_streams:
        return {}
    return {
        digest.key: Refused(
            f"store {store.name} names its streams by UUIDs, and {digest.stream!r} is none",
            hint="Nothing was written. Restore into a store whose streams are named by text.",
        )
        for digest in digests
        if not is_uuid(digest.stream)
    }
