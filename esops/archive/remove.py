"""Archived streams out of the store, in small parts, at a stated rate; what changed since is left
alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from esops.archive_format.hashes import Digest
from esops.events import StreamKey
from esops.settings import PolicySettings
from esops.stores.base import EventStore, RemovalStrategy, VersionRange

_STREAMS_AT_ONCE = 500


@dataclass
class RemovalResult:
    """What a removal did.

    `skipped` tells streams and reasons, at most a thousand of `left_alone`.
    """

    streams: int = 0
    events: int = 0
    left_alone: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, stream: str, reason: str) -> None:
        """Note a stream that was left alone."""
        self.left_alone += 1
        if len(self.skipped) < 1_000:
            self.skipped.append({"stream": stream, "reason": reason})


def parts_of(digest: Digest, stays: int, batch: int) -> Iterator[VersionRange]:
    """The parts in which a stream goes, the oldest first; none where all of it stays."""
    high = digest.last_version - stays
    low = digest.first_version
    while low <= high:
        top = min(low + batch - 1, high)
        yield VersionRange(digest.key, low, top, digest.last_version, ends=top == high)
        low = top + 1


Check = Callable[[Sequence[Digest]], Mapping[StreamKey, str]]


def remove(
    store: EventStore,
    strategy: RemovalStrategy,
    policy: PolicySettings,
    streams: Iterable[Digest],
    result: RemovalResult,
    check: Check,
    before_each: Callable[[], None],
) -> None:
    """Remove streams, at most `policy.batch` events a transaction; `before_each` may raise to stop
    between two.

    `check` is asked right before some streams go, and gives the reasons why any of them should not.
    """
    stays = max(policy.keep_last, strategy.keeps)
    pace = _RatePacer(policy.max_rate)
    for group in _groups(streams, policy.batch):
        before_each()
        reasons = check(group)
        parts: list[VersionRange] = []
        for digest in group:
            if digest.key in reasons:
                result.skip(digest.stream, reasons[digest.key])
            elif strategy.whole:
                parts.append(
                    VersionRange(
                        digest.key,
                        digest.first_version,
                        digest.last_version,
                        digest.last_version,
                        ends=True,
                    )
                )
            else:
                parts += parts_of(digest, stays, policy.batch)
        for batch in _batches(parts, policy.batch):
            before_each()
            for removed in store.remove(
                strategy.name, batch, policy.lock_timeout, policy.statement_timeout
            ):
                if removed.reason is not None:
                    result.skip(removed.part.key.stream, removed.reason)
                else:
                    result.events += removed.events
                    result.streams += removed.part.ends
            pace.after(sum(part.high - part.low + 1 for part in batch))


def _groups(streams: Iterable[Digest], batch: int) -> Iterator[list[Digest]]:
    """Streams of about a batch's events together; a longer one alone."""
    group: list[Digest] = []
    events = 0
    for digest in streams:
        if group and (events + digest.events > batch or len(group) >= _STREAMS_AT_ONCE):
            yield group
            group, events = [], 0
        group.append(digest)
        events += digest.events
    if group:
        yield group


def _batches(parts: Sequence[VersionRange], size: int) -> Iterator[list[VersionRange]]:
    """Parts in their order, at most so many events at a time: those of one stream follow each
    other.
    """
    batch: list[VersionRange] = []
    events = 0
    for part in parts:
        count = part.high - part.low + 1
        if batch and events + count > size:
            yield batch
            batch, events = [], 0
        batch.append(part)
        events += count
    if batch:
        yield batch


class _RatePacer:
    """Keeps to a rate, in events a second."""

    def __init__(self, rate: int | None) -> None:
        self._rate, self._began, self._done = rate, time.monotonic(), 0

    def after(self, events: int) -> None:
        self._done += events
        if self._rate is not None:
            ahead = self._done / self._rate - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)
