"""Is what the archive holds what was written, and what the store has?

Everything is read back from the repository.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive_format.hashes import Digest, digests
from esops.archive_format.manifest import FileEntry, Manifest
from esops.archive_format.repository import Missing
from esops.archive_format.runs import Run
from esops.archive_format.schema import Damaged, join_ids
from esops.errors import UsageError
from esops.events import StreamRef
from esops.stores.base import EventStore

_AT_ONCE = 1_000
MOST_PROBLEMS = 100


class StreamComparison(NamedTuple):
    """How a stream in the store compares with the archive's.

    same: all of it is there as it was archived. gone: nothing of it is there. partly: what is there
    is as it was archived, and some
    is gone or was appended since. differs: an event is another.
    """

    status: Literal["same", "gone", "partly", "differs"]
    detail: str = ""
    last_version: int | None = None


@dataclass
class RunVerification:
    """What a verification found.

    `files` were read; `problems` are sentences, at most a hundred of `found`.
    """

    run: str
    files: int = 0
    streams: int = 0
    events: int = 0
    found: int = 0
    problems: list[str] = field(default_factory=list)
    sampled: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.found

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {**asdict(self), "ok": self.ok}

    def problem(self, text: str) -> None:
        """Note a problem."""
        self.found += 1
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(text)


def combined(results: Sequence[RunVerification]) -> dict[str, Any]:
    """The verifications of several runs as one, with each of them in `runs`."""
    return {
        "run": None,
        "ok": all(each.ok for each in results),
        "files": sum(each.files for each in results),
        "streams": sum(each.streams for each in results),
        "events": sum(each.events for each in results),
        "problems": [problem for each in results for problem in each.problems],
        "runs": [each.as_dict() for each in results],
    }


Tick = Callable[[int, int], None]


def verify(
    run: Run,
    manifest: Manifest,
    store: EventStore | None = None,
    *,
    sample: float = 1.0,
    each: Callable[[Digest, StreamComparison], None] | None = None,
    tick: Tick = lambda *_: None,
) -> RunVerification:
    """Read a run back, hash and decode it, count it, and compare it with its list of streams and,
    where one is given, the store.

    `sample`: the part of the files of events that is read (0 to 1); the list of streams is always
    read.
    `each` is given how each stream compares with the store. `tick` is given events done and to do.
    """
    found = RunVerification(run.name)
    try:
        if sample >= 1:
            _verify_whole(found, run, manifest, store, each, tick)
        else:
            _verify_sample(found, run, manifest, sample)
    except (Damaged, Missing) as error:
        found.problem(error.message)
        _check_files(found, run, manifest)
    return found


def _check_files(found: RunVerification, run: Run, manifest: Manifest) -> None:
    """After a first problem: which other files have one."""
    for entry in manifest.files:
        try:
            run.content(entry)
        except (Damaged, Missing) as error:
            if error.message not in found.problems:
                found.problem(error.message)


def _verify_whole(
    found: RunVerification,
    run: Run,
    manifest: Manifest,
    store: EventStore | None,
    each: Callable[[Digest, StreamComparison], None] | None,
    tick: Tick,
) -> None:
    listed = run.streams(manifest)
    rows = RowReader(_all_batches(found, run, manifest))
    while group := [digest for digest, _ in islice(listed, _AT_ONCE)]:
        comparer = (
            RowComparer(store.export(_wanted(group), list(manifest.columns)))
            if store is not None
            else None
        )
        batches = rows.next(sum(digest.events for digest in group), comparer)
        there = digests(batches)
        for digest in group:
            if next(there, None) != digest:
                found.problem(
                    f"stream {digest.stream}: its events in {run.name} are not those of its list "
                    "of streams"
                )
            found.streams += 1
            found.events += digest.events
        deque(batches, 0)
        if store is not None and comparer is not None:
            same = comparer.equal()
            for digest, comparison in (
                _all_same(group) if same else compare(run, manifest, group, store)
            ):
                if comparison.status == "differs":
                    found.problem(f"stream {digest.stream}: {comparison.detail}")
                if each is not None:
                    each(digest, comparison)
        tick(found.events, manifest.events)
    for digest in digests(rows.next(None, None)):
        found.problem(
            f"stream {digest.stream} has events in {run.name}, and is not in its list of streams"
        )
    found.files += len(manifest.stream_files)
    for what, count, stated in (
        ("streams", found.streams, manifest.streams),
        ("events", found.events, manifest.events),
    ):
        if count != stated:
            found.problem(f"{run.name} has {count:,} {what}, and its manifest says {stated:,}")


def _wanted(streams: Sequence[Digest]) -> Iterator[StreamRef]:
    return (StreamRef(*digest[:3]) for digest in streams)


def _all_same(group: Sequence[Digest]) -> Iterator[tuple[Digest, StreamComparison]]:
    for digest in group:
        yield digest, StreamComparison("same", last_version=digest.last_version)


class RowReader:
    """The rows of batches, some at a time."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Take the batches; they are read as rows are asked for."""
        self._batches = batches
        self._waiting: list[pa.RecordBatch] = []

    def next(
        self, count: int | None, comparer: RowComparer | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The next so many rows (None: all), each compared with others as it passes."""
        while count is None or count:
            batch = self._waiting.pop() if self._waiting else next(self._batches, None)
            if batch is None:
                return
            taken = batch if count is None else batch.slice(0, count)
            if batch.num_rows > taken.num_rows:
                self._waiting.append(batch.slice(taken.num_rows))
            if count is not None:
                count -= taken.num_rows
            if comparer is not None:
                comparer.hold(taken)
            yield taken


class RowComparer:
    """Whether rows that come in batches are the same as others that come in batches of
    other sizes.
    """

    def __init__(self, others: Iterator[pa.RecordBatch]) -> None:
        """Take the others."""
        self._others = RowReader(others)
        self._equal = True

    def hold(self, batch: pa.RecordBatch) -> None:
        """Compare some rows with as many of the others."""
        at = 0
        while self._equal and at < batch.num_rows:
            other = next(self._others.next(batch.num_rows - at), None)
            if other is None or not other.equals(batch.slice(at, other.num_rows)):
                self._equal = False
            else:
                at += other.num_rows

    def equal(self) -> bool:
        """Whether all were the same, and there are no more of the others."""
        return self._equal and next(self._others.next(1), None) is None


def _all_batches(found: RunVerification, run: Run, manifest: Manifest) -> Iterator[pa.RecordBatch]:
    for entry in manifest.event_files:
        yield from _counted(run, entry)
        found.files += 1


def _counted(run: Run, entry: FileEntry) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in run.batches(entry):
        rows += batch.num_rows
        yield batch
    if rows != entry.rows:
        raise Damaged(
            f"{run.name}/{entry.name} has {rows:,} rows, and the manifest says {entry.rows:,}"
        )


def _verify_sample(found: RunVerification, run: Run, manifest: Manifest, sample: float) -> None:
    """Some files of events, wholly; streams that lie in one of them wholly are compared with their
    digests.
    """
    count = max(1, round(len(manifest.event_files) * sample))
    chosen = random.sample(manifest.event_files, min(count, len(manifest.event_files)))
    found.sampled = f"{len(chosen)} of {len(manifest.event_files)} files of events"
    ends = {name for entry in chosen for name in (entry.first, entry.last)}
    read: dict[tuple[str, str], Digest] = {}
    for entry in chosen:
        for digest in digests(_counted(run, entry)):
            found.events += digest.events
            if digest.stream not in ends:
                read[digest.key] = digest
        found.files += 1
    for digest, _ in run.streams(manifest):
        found.streams += 1
        if read.pop(digest.key, digest) != digest:
            found.problem(
                f"stream {digest.stream}: its events in {run.name} are not those of its list "
                "of streams"
            )
    for key in read:
        found.problem(
            f"stream {key[0]} has events in {run.name}, and is not in its list of streams"
        )
    found.files += len(manifest.stream_files)


def compare(
    run: Run, manifest: Manifest, streams: Sequence[Digest], store: EventStore
) -> Iterator[tuple[Digest, StreamComparison]]:
    """Compare some streams of a run with the store: by their digests, and event by event where
    these differ.
    """
    if len(manifest.first_position.split(":")) != manifest.position_parts:
        raise Damaged(f"{run.name}: its manifest contradicts itself")
    here = {
        digest.key: digest
        for digest in digests(store.export(_wanted(streams), list(manifest.columns)))
    }
    for digest in streams:
        other = here.get(digest.key)
        if other is None:
            yield digest, StreamComparison("gone")
        elif other == digest:
            yield digest, StreamComparison("same", last_version=other.last_version)
        else:
            yield digest, _look_closely(run, manifest, digest, other, store)


def _look_closely(
    run: Run, manifest: Manifest, digest: Digest, other: Digest, store: EventStore
) -> StreamComparison:
    archived = chain.from_iterable(_by_version(batch) for batch in events_of(run, manifest, digest))
    now = chain.from_iterable(
        _by_version(batch) for batch in store.export(_wanted([digest]), list(manifest.columns))
    )
    ahead = next(archived, None)
    for version, values in now:
        while ahead is not None and ahead[0] < version:
            ahead = next(archived, None)
        before = ahead[1] if ahead is not None and ahead[0] == version else None
        if before is None:
            if version <= digest.last_version:
                return StreamComparison(
                    "differs",
                    f"the store has an event of version {version}, and the archive has not",
                    other.last_version,
                )
            continue
        different = [name for name in before if before[name] != values[name]]
        if different:
            return StreamComparison(
                "differs",
                f"version {version} differs from the store's in {', '.join(different)}",
                other.last_version,
            )
    return StreamComparison("partly", "", other.last_version)


def _by_version(batch: pa.RecordBatch) -> Iterator[tuple[int, dict[str, Any]]]:
    ids = join_ids(batch)
    for row, identifier in zip(batch.to_pylist(), ids, strict=True):
        yield row["version"], {**row, "id": identifier, "id_text": None}


def events_of(run: Run, manifest: Manifest, digest: Digest) -> Iterator[pa.RecordBatch]:
    """The events of one stream of a run."""
    from esops.stores.archive.reading import Database

    with Database([(run, manifest)]) as database:
        entries = database.files_of(run, manifest, [digest.stream])
    for entry in entries:
        for batch in run.batches(entry):
            yield batch.filter(
                pc.and_(
                    pc.equal(batch.column("stream"), digest.stream),
                    pc.equal(batch.column("tenant"), digest.tenant),
                )
            )


def parse_sample(text: str) -> float:
    """Read `10%` or `0.1` as a part. Raises UsageError."""
    try:
        part = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        part = 0.0
    if not 0 < part <= 1:
        raise UsageError(f"--sample {text}: this is no part of the whole", hint="Like 10% or 0.1.")
    return part
