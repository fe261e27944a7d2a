"""Archived streams out of the store, in small parts, at a stated rate; what changed since is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from esops.backends.archive.format import Digest
from esops.backends.base import EventStore, Part, WayOut
from esops.config import PolicySettings

_STREAMS_AT_ONCE = 500


@dataclass
class Removal:
    """What a removal did. `skipped` tells streams and reasons, at most a thousand of `left_alone`."""

    streams: int = 0
    events: int = 0
    left_alone: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, stream: str, reason: str) -> None:
        """Note a stream that was left alone."""
        self.left_alone += 1
        if len(self.skipped) < 1_000:
            self.skipped.append({"stream": stream, "reason": reason})


def parts_of(digest: Digest, stays: int, batch: int) -> Iterator[Part]:
    """The parts in which a stream goes, the oldest first; none where all of it stays."""
    high = digest.last_version - stays
    low = digest.first_version
    while low <= high:
        top = min(low + batch - 1, high)
        yield Part(digest.key, low, top, digest.last_version, ends=top == high)
        low = top + 1


def remove(
    store: EventStore,
    way: WayOut,
    policy: PolicySettings,
    streams: Iterable[Digest],
    tell: Removal,
    before_each: Callable[[], None],
) -> None:
    """Remove streams, at most `policy.batch` events a transaction; `before_each` may raise to stop between two."""
    stays = max(policy.keep_last, way.keeps)
    batch: list[Part] = []
    events = 0
    pace = _Pace(policy.max_rate)
    for digest in streams:
        parts = [Part(digest.key, digest.first_version, digest.last_version, digest.last_version, ends=True)]
        for part in parts if way.whole else parts_of(digest, stays, policy.batch):
            batch.append(part)
            events += part.high - part.low + 1
            # Parts of one stream are taken one after the other: the last one ends it.
            if events >= policy.batch or len(batch) >= _STREAMS_AT_ONCE:
                _remove_batch(store, way, policy, batch, tell, before_each)
                pace.after(events)
                batch, events = [], 0
    if batch:
        _remove_batch(store, way, policy, batch, tell, before_each)


def _remove_batch(
    store: EventStore, way: WayOut, policy: PolicySettings, batch: list[Part], tell: Removal, before_each: Callable[[], None]
) -> None:
    before_each()
    for removed in store.remove(way.name, batch, policy.lock_timeout, policy.statement_timeout):
        if removed.reason is not None:
            tell.skip(removed.part.key.stream, removed.reason)
        else:
            tell.events += removed.events
            tell.streams += removed.part.ends


class _Pace:
    """Keeps to a rate, in events a second."""

    def __init__(self, rate: int | None) -> None:
        self._rate, self._began, self._done = rate, time.monotonic(), 0

    def after(self, events: int) -> None:
        self._done += events
        if self._rate is not None:
            ahead = self._done / self._rate - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)
