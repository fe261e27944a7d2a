"""Streams come back from an archive: as they were into their own store, or appended to another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.compare import RowReader, compare
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.config import Config
from esops.errors import EsopsError, Refused, Stopped, UsageError
from esops.events import EventFilter, NewEvent, RecordedEvent
from esops.stores import open_store
from esops.stores.archive.reading import Database, events_from
from esops.stores.base import EventStore, missing, require

_EVENTS_AT_ONCE = 5_000
_STREAMS_AT_ONCE = 500
_APPENDED_AT_ONCE = 200


@dataclass
class RestoreResult:
    """What a restore did."""

    run: str
    store: str
    streams: int = 0
    """Streams that were written."""
    events: int = 0
    there: int = 0
    """Streams of which nothing was missing."""


def restore_run(
    config: Config,
    run: Run,
    into: str,
    streams: Sequence[str] = (),
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RestoreResult:
    """Restore a run, or some of its streams, into a store of the configuration.

    Raises Stopped between two groups of streams, and what `restore` raises.
    """

    def check_stop() -> None:
        if stop():
            raise Stopped(
                "the restore was interrupted",
                hint="Run it again to resume it: streams that are complete are left as they are.",
            )

    name, settings = config.store(into)
    manifest = run.manifest()
    with open_store(name, settings.without_archive) as store:
        return restore(run, manifest, store, streams, check_stop=check_stop, progress=progress)


def restore(
    run: Run,
    manifest: Manifest,
    store: EventStore,
    names: Sequence[str] = (),
    *,
    check_stop: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RestoreResult:
    """Restore all streams of a run, or those that are named. Can be run again after a kill.

    In a store of the kind that they came from, streams get back their ids, versions, positions,
    times and payloads. In any other, events are appended with their ids, types and payloads, to
    streams that do not exist there.

    Raises Refused, before it writes to a stream, if the store has another event in its place;
    UsageError for a name that is not in the run.
    """
    restoration = _Restoration(run, manifest, store)
    requested = frozenset(names)
    found: set[str] = set()
    restores = store.archiving.restores if store.archiving is not None else ""
    at_home = store.name == manifest.store or restores == "anywhere"
    as_they_were = bool(restores) and at_home and store.ping().layout == manifest.layout
    if as_they_were:
        # All of it before anything is written: half a restore helps nobody.
        for group, _, batches in _groups(run, manifest, requested):
            check_stop()
            if manifest.part == "head":
                _check_joined(group, store)
            require(store, store.archiving, "archiving").check_room(batches)
            deque(batches, 0)
    done = 0
    for group, rows, batches in _groups(run, manifest, requested):
        check_stop()
        if as_they_were:
            restoration.restore_group(group, rows, batches)
        else:
            restoration.append_group(group, list(batches))
        # What was not needed is read all the same, so that the next group begins at its own rows.
        deque(batches, 0)
        done += len(group)
        progress(done, len(requested) or manifest.streams)
        found |= requested & {digest.stream for digest in group}
    if missing := requested - found:
        raise UsageError(
            f"run {run.name} has no stream {min(missing)!r}",
            hint=f"List its streams with: esops archive show {run.name} --streams",
        )
    return restoration.result


def _check_joined(group: Sequence[Digest], store: EventStore) -> None:
    """Raises Refused where a head does not join what the store has of its stream."""
    for digest in group:
        if digest.tenant:
            found = store.streams(EventFilter(stream=digest.stream, archived=True))
            info = next((each for each in found if each.tenant == digest.tenant), None)
        else:
            info = store.stream_info(digest.stream)
        alive = info is not None and not info.archived and not info.deleted
        if info is not None and alive and info.first_version <= digest.last_version + 1:
            continue
        begins = f"begins at version {info.first_version}" if info and alive else "is not alive"
        raise Refused(
            f"stream {digest.stream} {begins} in store {store.name}, and what comes back ends at "
            f"version {digest.last_version}: there would be a gap",
            hint="Nothing was written. Restore the newer runs that hold events of the stream first "
            "(`esops archive list`); or read all of it with the archive as a store.",
        )


class _Restoration:
    """Writes groups of streams, and counts them."""

    def __init__(self, run: Run, manifest: Manifest, store: EventStore) -> None:
        self._run, self._manifest, self._store = run, manifest, store
        self.result = RestoreResult(run.name, store.name)

    def restore_group(
        self, group: Sequence[Digest], rows: Sequence[str | None], batches: Iterable[pa.RecordBatch]
    ) -> None:
        """Write streams as they were, and check that they are; `rows` are the store's own."""
        missing: list[int] = []
        # Compared before anything is written: a restore that is run again writes only what is
        # missing.
        compared = compare(self._run, self._manifest, group, self._store)
        for number, (digest, comparison) in enumerate(compared):
            if comparison.status == "differs":
                raise Refused(
                    f"stream {digest.stream} cannot be restored: {comparison.detail}",
                    hint="esops overwrites no event. Restore into another store with --into.",
                )
            if comparison.status == "same":
                self.result.there += 1
            else:
                missing.append(number)
        if not missing:
            return
        incomplete = [group[number] for number in missing]
        keys = [digest.key for digest in incomplete]
        archiving = require(self._store, self._store.archiving, "archiving")
        # In front of a stream that continues, nothing but events comes back.
        own = None if self._manifest.part == "head" else [rows[number] for number in missing]
        self.result.events += archiving.restore_streams(
            keys, own, (_only(batch, keys) for batch in batches)
        )
        for digest, comparison in compare(self._run, self._manifest, incomplete, self._store):
            # "partly" without a detail: the application has appended to the stream in between.
            if comparison.status not in ("same", "partly") or comparison.detail:
                raise EsopsError(
                    f"stream {digest.stream} was restored, and differs from the archive: "
                    f"{comparison.status} {comparison.detail}"
                )
        self.result.streams += len(incomplete)

    def append_group(self, group: Sequence[Digest], batches: Sequence[pa.RecordBatch]) -> None:
        """Append streams to a store that cannot take positions; it numbers the events itself."""
        store = self._store
        if not store.capabilities.append:
            raise missing(store, "append")
        base = store.capabilities.first_version
        for digest in group:
            written = self._appended_before(digest)
            if written == digest.events:
                self.result.there += 1
                continue
            events = [
                event
                for batch in batches
                for event in events_from(_only(batch, [digest.key]), self._manifest)
            ]
            if len(events) != digest.events:
                raise Refused(
                    f"stream {digest.stream} holds rows that are not events (gap fillers, skipped "
                    "events), and another store cannot take them",
                    hint=f"Restore it into store {self._manifest.store}.",
                )
            if written:
                # A restore that was killed leaves the beginning of a stream, and is resumed. Any
                # other events belong to somebody else.
                self._check_beginning(digest, events[:written])
            for at in range(written, len(events), _APPENDED_AT_ONCE):
                some = [
                    NewEvent(event.id, event.type, event.data, event.metadata or b"{}")
                    for event in events[at : at + _APPENDED_AT_ONCE]
                ]
                store.append(digest.stream, some, base + at - 1)
                self.result.events += len(some)
            self.result.streams += 1

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

    def _check_beginning(self, digest: Digest, expected: Sequence[RecordedEvent]) -> None:
        """Raises Refused if the events that the store has are not the archived ones."""
        in_store = self._store.read_stream(digest.stream, limit=len(expected))
        for event, here in zip(expected, in_store, strict=False):
            if event.id != here.id:
                raise self._exists(digest)

    def _exists(self, digest: Digest) -> Refused:
        return Refused(
            f"store {self._store.name} already has a stream {digest.stream} with other events",
            hint="Restore into a store that does not have this stream.",
        )


def _only(batch: pa.RecordBatch, keys: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """The rows of some streams, by name and tenant."""
    requested = set(keys)
    pairs = zip(batch.column("stream").to_pylist(), batch.column("tenant").to_pylist(), strict=True)
    return batch.filter(pa.array([pair in requested for pair in pairs], pa.bool_()))


def _groups(
    run: Run, manifest: Manifest, requested: frozenset[str]
) -> Iterator[tuple[list[Digest], list[str | None], Iterator[pa.RecordBatch]]]:
    """Streams, the store's own rows of them, and their events; some thousand events at a time."""
    events = RowReader(_events(run, manifest, requested))
    group: list[Digest] = []
    rows: list[str | None] = []
    count = 0
    for digest, row in run.streams(manifest):
        if requested and digest.stream not in requested:
            continue
        group.append(digest)
        rows.append(row)
        count += digest.events
        if count >= _EVENTS_AT_ONCE or len(group) >= _STREAMS_AT_ONCE:
            yield group, rows, events.next(count)
            group, rows, count = [], [], 0
    if group:
        yield group, rows, events.next(count)


def _events(run: Run, manifest: Manifest, requested: frozenset[str]) -> Iterator[pa.RecordBatch]:
    """The events of the requested streams, or of all; only files that hold some are read."""
    if not requested:
        for entry in manifest.event_files:
            yield from run.batches(entry)
        return
    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, requested)
    names = pa.array(sorted(requested))
    for entry in entries:
        for batch in run.batches(entry):
            # By name alone: a stream that several tenants have is restored for all of them.
            yield batch.filter(pc.is_in(batch.column("stream"), names))
