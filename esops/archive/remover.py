"""Streams leave a store in small transactions: short ones together, a long one range by range."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from esops.archive_format.hashes import Digest
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.archiving import RemovalStrategy, Removed, VersionRange
from esops.stores.base import EventStore, require

_STREAMS_AT_ONCE = 500
_BYTES_AT_ONCE = 16 << 20
REASONS_KEPT = 1_000


@dataclass
class RemovalResult:
    """What a removal did."""

    streams: int = 0
    events: int = 0
    left_alone: int = 0
    """Streams that were not removed."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """The first thousand of these, each with its reason."""
    stuck: int = 0
    """How many of these stay until somebody changes the database."""
    hidden: dict[StreamKey, str] = field(default_factory=dict)
    """Those of them whose reason is seen only by who tries: a long stream is not tried again."""

    def skip(self, stream: str, reason: str, *, lasting: bool = False) -> None:
        """Count a stream that was not removed."""
        self.left_alone += 1
        self.stuck += lasting
        if len(self.skipped) < REASONS_KEPT:
            self.skipped.append({"stream": stream, "reason": reason})


@dataclass(frozen=True)
class ArchivedStream:
    """A stream of a run, and its events as they are read back: once, before the next stream's."""

    digest: Digest
    events: Iterable[pa.RecordBatch]


@dataclass(frozen=True)
class Remover:
    """Removes streams at a stated rate, at most `policy.batch` events in a transaction."""

    store: EventStore
    strategy: RemovalStrategy
    policy: PolicySettings
    head: bool
    """Whether streams continue behind what was archived of them."""
    before_each: Callable[[], None]
    """Is called before each transaction, and may raise to stop."""

    def remove(self, streams: Iterable[ArchivedStream], result: RemovalResult) -> None:
        """Remove streams and count them in `result`."""
        pace = _RatePacer(self.policy.max_rate)
        left: set[StreamKey] = set()
        parts = (
            part
            for stream in streams
            if not self._obstructed(stream.digest, result)
            # Of a long stream that is left alone, no later part goes.
            for part in self._parts(stream)
            if part.key not in left
        )
        for batch in _batches(parts, self.policy.batch):
            self.before_each()
            left &= {batch[0].key}
            going = [part for part in batch if part.key not in left]
            if going:
                self._remove_batch(going, left, result)
            pace.after(sum(each.high - each.low + 1 for each in batch))

    def _obstructed(self, digest: Digest, result: RemovalResult) -> bool:
        """Whether a stream that goes in several transactions could not go in the last of them:
        then it stays whole.
        """
        if digest.events <= self.policy.batch:
            return False
        found = self.obstacles([digest])
        if digest.key in found:
            result.skip(digest.stream, found[digest.key], lasting=True)
        return bool(found)

    def obstacles(self, streams: Sequence[Digest]) -> Mapping[StreamKey, str]:
        """Why streams could not be removed, where that is seen by looking."""
        archiving = require(self.store, self.store.archiving, "archiving")
        return archiving.obstacles(self.strategy.name, [*map(self._whole, streams)])

    def refused(self, streams: Iterable[ArchivedStream], at_most: timedelta) -> list[Removed]:
        """What would be left if streams were removed now, each with its reason. Nothing is removed,
        and no statement takes longer than `at_most`.
        """
        archiving = require(self.store, self.store.archiving, "archiving")
        limits = (self.policy.lock_timeout, self.policy.statement_timeout)
        found: list[Removed] = []
        parts = (part for stream in streams for part in self._parts(stream))
        for batch in _batches(parts, self.policy.batch):
            self.before_each()
            found += archiving.try_removal(
                self.strategy.name, batch, *(min(each, at_most) for each in limits)
            )
        return [each for each in found if each.reason is not None]

    def _whole(self, digest: Digest) -> VersionRange:
        last = digest.last_version
        # Of a run that an older esops has sealed, the last events are in the archive, too.
        stays = (
            0
            if self.head or self.strategy.whole
            else max(self.policy.keep_last, self.strategy.keeps)
        )
        return VersionRange(
            digest.key, digest.first_version, last - stays, last, ends=True, head=self.head
        )

    def _parts(self, stream: ArchivedStream) -> Iterator[VersionRange]:
        digest, whole = stream.digest, self._whole(stream.digest)
        if whole.high < whole.low:
            return
        events = _up_to(whole.high, stream.events)
        if digest.events <= self.policy.batch:
            yield whole._replace(events=list(events))
        elif self.strategy.whole or self.strategy.at_once:
            yield whole._replace(events=events)
        else:
            yield from _in_ranges(whole, events, self.policy.batch)

    def _remove_batch(
        self, batch: Sequence[VersionRange], left: set[StreamKey], result: RemovalResult
    ) -> None:
        archiving = require(self.store, self.store.archiving, "archiving")
        for removed in archiving.remove(
            self.strategy.name, batch, self.policy.lock_timeout, self.policy.statement_timeout
        ):
            key = removed.part.key
            if removed.reason is not None:
                if key not in left:
                    result.skip(key.stream, removed.reason, lasting=removed.lasting)
                    if removed.lasting and not archiving.obstacles(
                        self.strategy.name, [removed.part]
                    ):
                        result.hidden[key] = removed.reason
                left.add(key)
            else:
                result.events += removed.events
                # A long stream goes in several ranges, and counts when its last one has gone.
                result.streams += removed.part.ends


def _up_to(version: int, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The events of a stream up to a version."""
    for batch in batches:
        versions = batch.column("version")
        if batch.num_rows and versions[-1].as_py() > version:
            batch = batch.filter(pc.less_equal(versions, version))  # noqa: PLW2901
        if batch.num_rows:
            yield batch


def _in_ranges(
    whole: VersionRange, batches: Iterable[pa.RecordBatch], size: int
) -> Iterator[VersionRange]:
    """A long stream as ranges of at most `size` events, the oldest first; no version lies between
    two of them.
    """
    low, waiting = whole.low, None
    for batch in batches:
        for at in range(0, batch.num_rows, size):
            if waiting is not None:
                yield waiting
            some = batch.slice(at, size)
            high = some.column("version")[-1].as_py()
            waiting = whole._replace(low=low, high=high, ends=False, events=[some])
            low = high + 1
    if waiting is not None:
        yield waiting._replace(high=whole.high, ends=True)


def _batches(parts: Iterable[VersionRange], size: int) -> Iterator[list[VersionRange]]:
    """Ranges in their order, with at most `size` events in a batch; one whose events are read only
    once is alone, and gone before the next is asked for.
    """
    # Short streams share a transaction, since a transaction costs more than removing them.
    batch: list[VersionRange] = []
    events = weight = 0
    for each in parts:
        rows = each.events if isinstance(each.events, Sequence) else None
        count = size if rows is None else sum(some.num_rows for some in rows)
        heavy = _BYTES_AT_ONCE if rows is None else sum(some.nbytes for some in rows)
        full = events + count > size or weight + heavy > _BYTES_AT_ONCE
        if batch and (full or len(batch) >= _STREAMS_AT_ONCE):
            yield batch
            batch, events, weight = [], 0, 0
        batch.append(each)
        events, weight = events + count, weight + heavy
        if rows is None:
            yield batch
            batch, events, weight = [], 0, 0
    if batch:
        yield batch


class _RatePacer:
    """Sleeps so that no more than `rate` events a second are removed on average."""

    def __init__(self, rate: int | None) -> None:
        self._rate, self._began, self._done = rate, time.monotonic(), 0

    def after(self, events: int) -> None:
        self._done += events
        if self._rate is not None:
            ahead = self._done / self._rate - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)
