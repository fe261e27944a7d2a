"""Verification: is the archive what was written, and is it what the store has?

Everything is read back from the repository; nothing is taken on trust from the export.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from esops.archive.compare import (
    RowComparer,
    RowReader,
    StreamComparison,
    compare,
    exported,
    only,
    same_as,
)
from esops.archive_format.hashes import Digest, digests
from esops.archive_format.manifest import FileEntry, Manifest
from esops.archive_format.repository import Missing
from esops.archive_format.runs import Run
from esops.archive_format.schema import Damaged
from esops.errors import UsageError
from esops.stores.base import EventStore

_STREAMS_AT_ONCE = 1_000
_PROBLEMS_KEPT = 100
_BYTES_KEPT = 64 << 20
"""Of the events of a group of streams: where these differ from the store's, no file is read again.
"""

Tick = Callable[[int, int], None]
"""Is given how many events are done, and how many there are."""


@dataclass
class RunVerification:
    """What a verification found."""

    run: str
    files: int = 0
    """Files that were read."""
    streams: int = 0
    events: int = 0
    compared: int | None = None
    """Events that are in the store as well and were compared with it; None if it was not asked."""
    found: int = 0
    """How many problems there are."""
    problems: list[str] = field(default_factory=list)
    """The first hundred of them, each as a sentence."""
    gone: int = 0
    """Archived events that the store does not have, or has marked as archived."""
    gone_streams: int = 0
    """Streams of which it has none of the archived events."""
    sampled: str | None = None
    """Which part of the files was read, if not all."""

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.found

    def as_dict(self) -> dict[str, Any]:
        """The verification under the documented field names."""
        fields = asdict(self)
        del fields["gone_streams"]
        return {**fields, "ok": self.ok}

    def problem(self, text: str) -> None:
        """Add a problem."""
        self.found += 1
        if len(self.problems) < _PROBLEMS_KEPT:
            self.problems.append(text)


def combined(results: Sequence[RunVerification]) -> dict[str, Any]:
    """The verifications of several runs as one, with each of them in `runs`."""
    compared = [each.compared for each in results if each.compared is not None]
    return {
        "run": None,
        "ok": all(each.ok for each in results),
        "files": sum(each.files for each in results),
        "streams": sum(each.streams for each in results),
        "events": sum(each.events for each in results),
        "compared": sum(compared) if compared else None,
        "problems": [problem for each in results for problem in each.problems],
        "runs": [each.as_dict() for each in results],
    }


def verify(
    run: Run,
    manifest: Manifest,
    store: EventStore | None = None,
    *,
    sample: float = 1.0,
    each: Callable[[Digest, StreamComparison], None] | None = None,
    tick: Tick = lambda *_: None,
) -> RunVerification:
    """Read a run back, check every hash, decode and count it, and compare it with its manifest.

    Args:
        run: The run to read.
        manifest: Its seal.
        store: If given, every stream is compared with this store as well.
        sample: Which part (0 to 1) of the files of events is read. The lists of streams are always
            read completely. With a sample, `store` is not asked.
        each: Is given how each stream compares with the store.
        tick: Is given the progress.
    """
    found = RunVerification(run.name, compared=None if store is None else 0)
    try:
        if sample >= 1:
            _WholeVerification(found, run, manifest, store, each).read(tick)
        else:
            _verify_sample(found, run, manifest, sample)
    except (Damaged, Missing) as error:
        found.problem(error.message)
        _check_files(found, run, manifest)
    return found


def _check_files(found: RunVerification, run: Run, manifest: Manifest) -> None:
    """After a first problem, look for others: check the hash of each file."""
    for entry in manifest.files:
        try:
            run.content(entry)
        except (Damaged, Missing) as error:
            if error.message not in found.problems:
                found.problem(error.message)


@dataclass
class _WholeVerification:
    """Reads all files of a run once, the events beside the list of streams."""

    found: RunVerification
    run: Run
    manifest: Manifest
    store: EventStore | None
    each: Callable[[Digest, StreamComparison], None] | None

    def read(self, tick: Tick) -> None:
        """Verify everything. Raises Damaged, Missing for a file that cannot be read."""
        streams = self.run.streams(self.manifest)
        scope = None if self.store is None else self.store.tenant_scope
        rows = RowReader(self._event_batches())
        # Both files are sorted by stream, so that the next thousand streams' events are the next
        # rows of the files of events.
        while group := list(islice(streams, _STREAMS_AT_ONCE)):
            # What another tenant has, a store that reads one alone cannot tell.
            own = [
                digest
                for digest, row in group
                if scope is None or scope.own(digest.key, row.row) == digest.key
            ]
            self._verify_group([digest for digest, _ in group], own, rows)
            tick(self.found.events, self.manifest.events)
        # Events that are left belong to no listed stream.
        for digest in digests(rows.next(None)):
            self.found.problem(_unlisted(digest.stream, self.run))
        self.found.files += len(self.manifest.stream_files)
        self._compare_counts()

    def _verify_group(self, group: list[Digest], own: list[Digest], rows: RowReader) -> None:
        comparer = None
        if self.store is not None and len(own) == len(group):
            comparer = RowComparer(exported(self.store, group, self.manifest))
        kept = _KeptRows()
        batches = kept.passing(rows.next(sum(digest.events for digest in group), comparer))
        read = digests(batches)
        for digest in group:
            if next(read, None) != digest:
                self.found.problem(_other_events(digest.stream, self.run))
            self.found.streams += 1
            self.found.events += digest.events
        # After a difference some rows may be left: the next group begins with its own.
        deque(batches, 0)
        if self.store is not None and own:
            at_hand = kept.all_of(group)
            if at_hand is not None and len(own) < len(group):
                keys = [digest.key for digest in own]
                at_hand = [only(batch, keys) for batch in at_hand]
            all_equal = comparer is not None and comparer.equal()
            self._compare_with_store(own, self.store, at_hand, all_equal=all_equal)

    def _compare_with_store(
        self,
        group: list[Digest],
        store: EventStore,
        at_hand: list[pa.RecordBatch] | None,
        *,
        all_equal: bool,
    ) -> None:
        # Rows that are equal need no look at single streams, and nearly always all are.
        compared = (
            _same(group) if all_equal else compare(self.run, self.manifest, group, store, at_hand)
        )
        for digest, comparison in compared:
            self.found.compared = (self.found.compared or 0) + comparison.compared
            if comparison.status == "differs":
                self.found.problem(f"stream {digest.stream}: {comparison.detail}")
            self.found.gone += comparison.missing
            self.found.gone_streams += comparison.status == "gone"
            if self.each is not None:
                self.each(digest, comparison)

    def _event_batches(self) -> Iterator[pa.RecordBatch]:
        for entry in self.manifest.event_files:
            yield from _checked_rows(self.run, entry)
            self.found.files += 1

    def _compare_counts(self) -> None:
        for what, number, stated in (
            ("streams", self.found.streams, self.manifest.streams),
            ("events", self.found.events, self.manifest.events),
        ):
            if number != stated:
                self.found.problem(
                    f"{self.run.name} has {number:,} {what}, and its manifest says {stated:,}"
                )


class _KeptRows:
    """The events of a group of streams, where they are small enough to be kept."""

    def __init__(self) -> None:
        self._rows: list[pa.RecordBatch] | None = []
        self._bytes = 0

    def passing(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass rows on."""
        for batch in batches:
            self._bytes += batch.nbytes
            if self._rows is not None:
                self._rows.append(batch)
                if self._bytes > _BYTES_KEPT:
                    self._rows = None
            yield batch

    def all_of(self, group: Sequence[Digest]) -> list[pa.RecordBatch] | None:
        """All rows of the streams; None where they were too large, or are not all there."""
        rows = self._rows
        whole = sum(digest.events for digest in group)
        return rows if rows and sum(each.num_rows for each in rows) == whole else None


def _same(group: Sequence[Digest]) -> Iterator[tuple[Digest, StreamComparison]]:
    for digest in group:
        yield digest, same_as(digest)


def _checked_rows(run: Run, entry: FileEntry) -> Iterator[pa.RecordBatch]:
    """A file's rows. Raises Damaged at the end if there are not as many as the manifest says."""
    rows = 0
    for batch in run.batches(entry):
        rows += batch.num_rows
        yield batch
    if rows != entry.rows:
        raise Damaged(
            f"{run.name}/{entry.name} has {rows:,} rows, and the manifest says {entry.rows:,}"
        )


def _verify_sample(found: RunVerification, run: Run, manifest: Manifest, sample: float) -> None:
    """Read some files of events completely, and compare the streams in them with the list."""
    files = manifest.event_files
    number = max(1, round(len(files) * sample))
    drawn = random.sample(files, min(number, len(files)))
    found.sampled = f"{len(drawn)} of {len(files)} files of events"
    # The first and the last stream of a file may continue in its neighbours, so that they cannot
    # be compared.
    ends = {name for entry in drawn for name in (entry.first, entry.last)}
    read: dict[tuple[str, str], Digest] = {}
    for entry in drawn:
        for digest in digests(_checked_rows(run, entry)):
            found.events += digest.events
            if digest.stream not in ends:
                read[digest.key] = digest
        found.files += 1
    for digest, _ in run.streams(manifest):
        found.streams += 1
        if read.pop(digest.key, digest) != digest:
            found.problem(_other_events(digest.stream, run))
    for key in read:
        found.problem(_unlisted(key[0], run))
    found.files += len(manifest.stream_files)


def _other_events(stream: str, run: Run) -> str:
    return f"stream {stream}: its events in {run.name} do not match the run's list of streams"


def _unlisted(stream: str, run: Run) -> str:
    return f"stream {stream} has events in {run.name} and is missing from its list of streams"


def parse_sample(text: str) -> float:
    """Read `10%` or `0.1` as a part of the whole. Raises UsageError."""
    try:
        part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise UsageError(
            f"--sample {text} is not a part of the whole", hint="Write it like 10% or 0.1."
        )
    return part
