"""The last step of an archive run: archived streams leave the store in small transactions.

Each stream is compared once more right before it is removed. A stream that has changed since it
was archived stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from esops.archive import checkpoint_guard
from esops.archive.compare import compare
from esops.archive.context import ArchiveOutcome, RunContext
from esops.archive.unread import RunEvents
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.manifest import Manifest
from esops.errors import EsopsError
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.base import EventStore, require
from esops.stores.parts import RemovalStrategy, VersionRange

log = structlog.get_logger("esops.archive")

_STREAMS_AT_ONCE = 500
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

    def skip(self, stream: str, reason: str) -> None:
        """Count a stream that was not removed."""
        self.left_alone += 1
        if len(self.skipped) < _REASONS_KEPT:
            self.skipped.append({"stream": stream, "reason": reason})


def remove_archived(
    context: RunContext, manifest: Manifest, reasons: DiskMap, outcome: ArchiveOutcome
) -> None:
    """Remove the streams of a verified run, except those that `reasons` names.

    Raises Refused, before anything is removed, if somebody has not read the events yet; Stopped
    between two transactions.
    """
    if not context.despite_checkpoints:
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

    def before_each() -> None:
        context.check_stop()
        # Another process that took over would archive and remove the same streams.
        context.lease.check()
        context.progress("streams removed", result.streams + result.left_alone, manifest.streams)

    def removable() -> Iterator[Digest]:
        for digest, _ in context.run.streams(manifest):
            reason = reasons.get(*digest.key)
            if reason is not None:
                result.skip(digest.stream, reason)
            else:
                yield digest

    def changed(streams: Sequence[Digest]) -> dict[StreamKey, str]:
        # At a low rate, hours can lie between the verification and a stream's removal.
        compared = compare(context.run, manifest, streams, context.store)
        return {
            digest.key: comparison.detail
            for digest, comparison in compared
            if comparison.status == "differs"
        }

    head = manifest.part == "head"
    remover = Remover(context.store, context.strategy, context.policy, head, changed, before_each)
    remover.remove(removable(), result)
    outcome.removed, outcome.removed_events = result.streams, result.events
    outcome.left_alone, outcome.skipped = result.left_alone, result.skipped
    log.info(
        "removed",
        run=context.run.name,
        removal=context.removal,
        streams=result.streams,
        left_alone=result.left_alone,
    )
    if context.policy.scavenge and context.store.admin is not None:
        outcome.scavenge = _scavenge(context)


@dataclass(frozen=True)
class Remover:
    """Removes streams at a stated rate, at most `policy.batch` events in a transaction."""

    store: EventStore
    strategy: RemovalStrategy
    policy: PolicySettings
    head: bool
    """Whether streams continue behind what was archived of them."""
    changed: Callable[[Sequence[Digest]], Mapping[StreamKey, str]]
    """Is asked right before streams are removed; says why some of them must not be."""
    before_each: Callable[[], None]
    """Is called before each transaction, and may raise to stop."""

    def remove(self, streams: Iterable[Digest], result: RemovalResult) -> None:
        """Remove streams and count them in `result`."""
        pace = _RatePacer(self.policy.max_rate)
        for group in _groups(streams, self.policy.batch):
            self.before_each()
            reasons = self.changed(group)
            ranges: list[VersionRange] = []
            for digest in group:
                if digest.key in reasons:
                    result.skip(digest.stream, reasons[digest.key])
                else:
                    ranges += self._ranges(digest)
            for batch in _batches(ranges, self.policy.batch):
                self.before_each()
                self._remove_batch(batch, result)
                pace.after(sum(each.high - each.low + 1 for each in batch))

    def _ranges(self, digest: Digest) -> Iterable[VersionRange]:
        if self.head:  # all of it: what stays was not archived
            ranges = ranges_of(digest, 0, self.policy.batch)
            return (each._replace(head=True) for each in ranges)
        if self.strategy.whole:
            first, last = digest.first_version, digest.last_version
            return [VersionRange(digest.key, first, last, last, ends=True)]
        # Of a run that an older esops has sealed, the last events are in the archive, too.
        stays = max(self.policy.keep_last, self.strategy.keeps)
        return ranges_of(digest, stays, self.policy.batch)

    def _remove_batch(self, batch: Sequence[VersionRange], result: RemovalResult) -> None:
        archiving = require(self.store, self.store.archiving, "archiving")
        for removed in archiving.remove(
            self.strategy.name, batch, self.policy.lock_timeout, self.policy.statement_timeout
        ):
            if removed.reason is not None:
                result.skip(removed.part.key.stream, removed.reason)
            else:
                result.events += removed.events
                # A long stream goes in several ranges, and counts when its last one has gone.
                result.streams += removed.part.ends


def ranges_of(digest: Digest, stays: int, batch: int) -> Iterator[VersionRange]:
    """The version ranges in which a stream is removed, the oldest first.

    `stays`: how many of its last events stay. Nothing if all of them do.
    """
    high = digest.last_version - stays
    low = digest.first_version
    while low <= high:
        top = min(low + batch - 1, high)
        # With the version that was archived: the store removes nothing from a stream that has
        # grown in between.
        yield VersionRange(digest.key, low, top, digest.last_version, ends=top == high)
        low = top + 1


def _groups(streams: Iterable[Digest], batch: int) -> Iterator[list[Digest]]:
    """Streams with about `batch` events together; a longer stream is a group of its own."""
    group: list[Digest] = []
    events = 0
    # Short streams share a transaction, since a transaction costs more than removing them.
    for digest in streams:
        if group and (events + digest.events > batch or len(group) >= _STREAMS_AT_ONCE):
            yield group
            group, events = [], 0
        group.append(digest)
        events += digest.events
    if group:
        yield group


def _batches(ranges: Sequence[VersionRange], size: int) -> Iterator[list[VersionRange]]:
    """Ranges in their order, with at most `size` events in a batch."""
    batch: list[VersionRange] = []
    events = 0
    for each in ranges:
        count = each.high - each.low + 1
        if batch and events + count > size:
            yield batch
            batch, events = [], 0
        batch.append(each)
        events += count
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
    """Start a scavenge of the node and wait for it: only then does the disk space come free."""
    admin = require(context.store, context.store.admin, "admin")
    number, result = "", "InProgress"
    for seen in admin.scavenge():
        context.check_stop()
        context.progress("chunks scavenged", seen.chunks, None)
        number, result = seen.id, seen.result
    if result != "Success":
        raise EsopsError(
            f"scavenge {number} of store {context.store_name} ended with {result}",
            hint="The events are removed. Start a scavenge of the node again to free the disk "
            "space.",
        )
    return number
