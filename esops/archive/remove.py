"""The last step of an archive run: archived streams leave the store in small transactions.

What the archive has is read back once more, and goes along with what it stands for: the store
removes an event only while it is equal to that. Where one is not, its stream stays. Before each
transaction the files are looked at, and all of them at the end.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, repeat
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from esops.archive import checkpoint_guard, policy
from esops.archive.ages import StreamAges
from esops.archive.compare import RowReader
from esops.archive.context import ArchiveOutcome, RunContext, utc_now
from esops.archive.kept_files import KeptFiles
from esops.archive.unread import RunEvents
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.errors import EsopsError
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.archiving import RemovalStrategy, Removed, StreamPart, VersionRange
from esops.stores.base import EventStore, require
from esops.term import duration

if TYPE_CHECKING:
    from esops.stores.eventstoredb.admin import Scavenge

log = structlog.get_logger("esops.archive")

_STREAMS_AT_ONCE = 500
_BYTES_AT_ONCE = 16 << 20
_REASONS_KEPT = 1_000


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
        if len(self.skipped) < _REASONS_KEPT:
            self.skipped.append({"stream": stream, "reason": reason})


def remove_archived(
    context: RunContext, manifest: Manifest, reasons: DiskMap, outcome: ArchiveOutcome, gone: int
) -> None:
    """Remove the streams of a verified run, except those that `reasons` names.

    `gone` of its events the store does not have any more.

    Raises Refused, before anything is removed, if somebody has not read the events yet; Stopped
    between two transactions; Missing or Damaged, at once, where the archive has lost a file.
    """
    if context.despite_checkpoints:
        log.warning("removing events without asking any reader how far it has read")
    else:
        checkpoint_guard.refuse_unless_read(
            context.config,
            context.store,
            context.store_name,
            RunEvents(context.run, manifest),
            context.despite,
        )
    for key, reason in checkpoint_guard.needed_streams(context.store).items():
        reasons.put(*key, reason)
    result = RemovalResult()
    # Once more: a run that was sealed to keep its streams can be resumed to remove them.
    clock = policy.now(context.store, context.policy, context.removal)
    files = KeptFiles(context.run, manifest, lambda: result.events)
    # From here on the run counts, whatever becomes of it: it may be all that is left of events.
    before = context.run.read("removal.json")
    # What had gone when the run began to remove, others removed; what went since, it did itself.
    others = gone if before is None else before.get("gone", 0)
    limit = context.policy.statement_timeout.total_seconds()
    note = {"at": utc_now(), "remove": context.removal, "gone": others, "statement_timeout": limit}
    context.run.note("removal.json", note)

    def before_each() -> None:
        context.check_stop()
        # Another process that took over would archive and remove the same streams.
        context.lease.check()
        files.check()
        context.progress("streams removed", result.streams + result.left_alone, manifest.streams)

    def streams() -> Iterator[ArchivedStream]:
        events = RowReader(files.events())
        archived = (digest for digest, _ in context.run.streams(manifest))
        for digest, young in _with_ages(context, manifest, archived, clock):
            reason = reasons.get(*digest.key) or young
            rows = events.next(digest.events)
            if reason is not None:
                result.skip(digest.stream, reason)
            else:
                yield ArchivedStream(digest, rows)
            # The next stream begins at its own rows.
            deque(rows, 0)

    head = manifest.part == "head"
    remover = Remover(context.store, context.strategy, context.policy, head, before_each)
    remover.remove(streams(), result)
    outcome.removed, outcome.removed_events = result.streams, max(0, result.events - others)
    if before is not None:
        # What an earlier process of the run has removed may be in streams that stay now, or have
        # gone in another way.
        outcome.removed_events = max(0, _lacking(context, manifest) - others)
    outcome.left_alone = result.left_alone
    outcome.skipped = [*outcome.skipped, *result.skipped][:_REASONS_KEPT]
    outcome.stuck += result.stuck
    outcome.hidden = [[*key, reason] for key, reason in result.hidden.items()]
    files.check_all()
    log.info(
        "removed",
        run=context.run.name,
        removal=context.removal,
        streams=result.streams,
        left_alone=result.left_alone,
    )
    if policy.scavenges(context.store, context.policy, context.removal):
        outcome.scavenge = _scavenge(context)


def _lacking(context: RunContext, manifest: Manifest) -> int:
    """How many of a run's events the store does not have any more, or has marked as archived."""
    lacking = 0
    archived = (digest for digest, _ in context.run.streams(manifest))
    while group := list(islice(archived, _STREAMS_AT_ONCE)):
        parts = [StreamPart(each.key, each.first_version, each.last_version) for each in group]
        there = context.store.count_parts(parts)
        lacking += sum(max(0, e.events - n) for e, n in zip(group, there, strict=True))
    return lacking


def _with_ages(
    context: RunContext, manifest: Manifest, archived: Iterator[Digest], clock: datetime
) -> Iterator[tuple[Digest, str | None]]:
    """Each stream, and why it is not removed where it is too young or nobody knows."""
    floor = context.policy.floor(context.removal)
    least = f"the policy never removes what is younger than {duration(floor.total_seconds())}"
    reasons = {
        None: None,
        "young": least,
        "ageless": f"the age of its last event is unknown, and {least}",
    }
    ages = StreamAges(context.store, clock)
    while group := list(islice(archived, _STREAMS_AT_ONCE)):
        found: Iterable[str | None] = repeat(None)
        if floor:
            found = policy.young(context.store, manifest.part, group, floor, ages)
        for digest, why in zip(group, found, strict=False):
            yield digest, reasons[why]


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


def _scavenge(context: RunContext) -> str:
    """Scavenge each node and wait for it: only then does the disk space come free.

    Returns the ids. Raises EsopsError that names the nodes where it did not succeed.
    """
    admin = require(context.store, context.store.admin, "admin")
    last: dict[str, Scavenge] = {}
    for seen in admin.scavenge():
        context.check_stop()
        context.progress("chunks scavenged", seen.chunks, None)
        last[seen.node] = seen
    bad = [each for each in last.values() if each.result != "Success"]
    if bad or not last:
        why = "; ".join(f"{each.node}: {each.error or each.result}" for each in bad)
        good = ", ".join(each.node for each in last.values() if each not in bad) or "none"
        raise EsopsError(
            f"not every node of store {context.store_name} was scavenged ({why}); scavenged: "
            f"{good}",
            hint="The events are removed, and a node frees their disk space with its own scavenge. "
            "Run the policy again, or start a scavenge of these nodes.",
        )
    return ", ".join(each.id for each in last.values())
