"""Streams back from an archive: into the store they came from, as they were, or into another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.verify import RowReader, compare
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.errors import EsopsError, Refused, UsageError
from esops.events import NewEvent, RecordedEvent
from esops.stores.archive.reading import Database, events_from
from esops.stores.base import EventStore

_EVENTS_AT_ONCE = 5_000
_STREAMS_AT_ONCE = 500
_APPENDED_AT_ONCE = 200


@dataclass
class RestoreResult:
    """What a restore did. `there`: streams of which nothing was missing."""

    run: str
    store: str
    streams: int = 0
    events: int = 0
    there: int = 0


def restore(
    run: Run,
    manifest: Manifest,
    store: EventStore,
    names: Sequence[str] = (),
    *,
    check_stop: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RestoreResult:
    """Bring back all streams of a run, or those that are named.

    May be asked again after it was killed.

    Same ids, versions, positions, times and payloads where the store is of the kind that they came
    from; else events are appended, with
    their ids, types and payloads, to streams that are not there. Raises Refused, before it writes
    to a stream, where an event that is
    there is another; UsageError for a name that the run has not.
    """
    result = RestoreResult(run.name, store.name)
    wanted = frozenset(names)
    found: set[str] = set()
    strategy = store.capabilities.restores
    at_home = store.name == manifest.store or strategy == "anywhere"
    as_they_were = bool(strategy) and at_home and store.ping().layout == manifest.layout
    done = 0
    for group, rows, batches in _groups(run, manifest, wanted):
        check_stop()
        if as_they_were:
            _put_back(result, run, manifest, group, rows, batches, store)
        else:
            _append(result, manifest, group, list(batches), store)
        deque(batches, 0)  # what was not needed, so that the next group begins at its own events
        done += len(group)
        progress(done, len(wanted) or manifest.streams)
        found |= wanted & {digest.stream for digest in group}
    if missing := wanted - found:
        raise UsageError(
            f"run {run.name} has no stream {min(missing)!r}",
            hint=f"esops archive show {run.name} --streams",
        )
    return result


def _put_back(
    result: RestoreResult,
    run: Run,
    manifest: Manifest,
    group: Sequence[Digest],
    rows: Sequence[str | None],
    batches: Iterable[pa.RecordBatch],
    store: EventStore,
) -> None:
    missing: list[int] = []
    for number, (digest, comparison) in enumerate(compare(run, manifest, group, store)):
        if comparison.status == "differs":
            raise Refused(
                f"stream {digest.stream}: {comparison.detail}",
                hint="Nothing is written over. --into restores to another store.",
            )
        if comparison.status == "same":
            result.there += 1
        else:
            missing.append(number)
    if not missing:
        return
    chosen = [group[number] for number in missing]
    keys = [digest.key for digest in chosen]
    result.events += store.restore_streams(
        keys, [rows[number] for number in missing], (_only(batch, keys) for batch in batches)
    )
    for digest, comparison in compare(run, manifest, chosen, store):
        if comparison.status not in ("same", "partly") or comparison.detail:
            raise EsopsError(
                f"stream {digest.stream} was restored and is not as it was: {comparison.status} "
                f"{comparison.detail}"
            )
    result.streams += len(chosen)


def _only(batch: pa.RecordBatch, keys: Sequence[tuple[str, str]]) -> pa.RecordBatch:
    """The rows of some streams."""
    wanted = set(keys)
    pairs = zip(batch.column("stream").to_pylist(), batch.column("tenant").to_pylist(), strict=True)
    return batch.filter(pa.array([pair in wanted for pair in pairs], pa.bool_()))


def _append(
    result: RestoreResult,
    manifest: Manifest,
    group: Sequence[Digest],
    batches: Sequence[pa.RecordBatch],
    store: EventStore,
) -> None:
    """Into a store of another kind, or one that cannot take positions: versions are those that the
    store gives.
    """
    if not store.capabilities.append:
        raise UsageError(f"store {store.name} takes no events")
    base = store.capabilities.first_version
    for digest in group:
        if digest.first_version != manifest.first_version:
            raise Refused(
                f"stream {digest.stream} begins at version {digest.first_version} in the archive: "
                "it would get others"
            )
        here = store.stream_info(digest.stream)
        written = 0 if here is None else here.last_version - base + 1
        if written > digest.events or (here is not None and here.first_version != base):
            raise Refused(
                f"stream {digest.stream} is there already",
                hint="Restore into a store that has it not.",
            )
        if written == digest.events:
            result.there += 1
            continue
        events = [
            event
            for batch in batches
            for event in events_from(_only(batch, [digest.key]), manifest)
        ]
        if len(events) != digest.events:
            raise Refused(
                f"stream {digest.stream} holds rows that are no events, which another store "
                "cannot take"
            )
        if written:
            _refuse_others(digest, events[:written], store)
        for at in range(written, len(events), _APPENDED_AT_ONCE):
            some = [
                NewEvent(event.id, event.type, event.data, event.metadata or b"{}")
                for event in events[at : at + _APPENDED_AT_ONCE]
            ]
            store.append(digest.stream, some, base + at - 1)
            result.events += len(some)
        result.streams += 1


def _refuse_others(digest: Digest, expected: Sequence[RecordedEvent], store: EventStore) -> None:
    """A restore that was killed left the beginning of a stream; events of somebody else's are
    another thing.
    """
    for event, here in zip(
        expected, store.read_stream(digest.stream, limit=len(expected)), strict=False
    ):
        if event.id != here.id:
            raise Refused(
                f"stream {digest.stream} is there already",
                hint="Restore into a store that has it not.",
            )


def _groups(
    run: Run, manifest: Manifest, wanted: frozenset[str]
) -> Iterator[tuple[list[Digest], list[str | None], Iterator[pa.RecordBatch]]]:
    """Streams with their events, some thousand events at a time."""
    events = RowReader(_events(run, manifest, wanted))
    group: list[Digest] = []
    rows: list[str | None] = []
    count = 0
    for digest, row in run.streams(manifest):
        if wanted and digest.stream not in wanted:
            continue
        group.append(digest)
        rows.append(row)
        count += digest.events
        if count >= _EVENTS_AT_ONCE or len(group) >= _STREAMS_AT_ONCE:
            yield group, rows, events.next(count)
            group, rows, count = [], [], 0
    if group:
        yield group, rows, events.next(count)


def _events(run: Run, manifest: Manifest, wanted: frozenset[str]) -> Iterator[pa.RecordBatch]:
    if not wanted:
        for entry in manifest.event_files:
            yield from run.batches(entry)
        return
    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, wanted)
    names = pa.array(sorted(wanted))
    for entry in entries:
        for batch in run.batches(entry):
            yield batch.filter(pc.is_in(batch.column("stream"), names))
