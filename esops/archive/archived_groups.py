"""The streams of a run in groups of some thousand events, each with its rows and events."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive.compare import RowReader
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.errors import Busy
from esops.stores.archive.reading import Database

_EVENTS_AT_ONCE = 5_000
_STREAMS_AT_ONCE = 500


class Group(NamedTuple):
    """Streams, the store's own rows of them, and their events, which can be read once."""

    digests: list[Digest]
    rows: list[str | None]
    batches: Iterator[pa.RecordBatch]


def check_seal(run: Run, manifest: Manifest) -> None:
    """Raises Busy where the run was sealed again, with other files than the manifest names."""
    if run.manifest().files != manifest.files:
        raise Busy(
            f"run {run.name} was sealed again since its events were read, as an erasure of "
            "personal data does",
            hint="Run the restore again: it takes the events as they are now.",
        )


def groups_of(run: Run, manifest: Manifest, requested: frozenset[str]) -> Iterator[Group]:
    """All streams of a run, or those of some names, in the order of its files.

    What is not read of a group's events is skipped before the next group.
    """
    events = RowReader(events_of_streams(run, manifest, requested))
    group: list[Digest] = []
    rows: list[str | None] = []
    count = 0
    for digest, row in run.streams(manifest):
        if requested and digest.stream not in requested:
            continue
        group.append(digest)
        rows.append(row.row)
        count += digest.events
        if count >= _EVENTS_AT_ONCE or len(group) >= _STREAMS_AT_ONCE:
            yield from _group(group, rows, events, count)
            group, rows, count = [], [], 0
    if group:
        yield from _group(group, rows, events, count)


def _group(
    digests: list[Digest], rows: list[str | None], events: RowReader, count: int
) -> Iterator[Group]:
    batches = events.next(count)
    yield Group(digests, rows, batches)
    deque(batches, 0)


def events_of_streams(
    run: Run, manifest: Manifest, requested: frozenset[str]
) -> Iterator[pa.RecordBatch]:
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
