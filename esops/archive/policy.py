"""Which streams a policy selects, and how they would leave the store."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import orjson
import structlog

from esops.archive.ages import StreamAges
from esops.archive.heads import Heads, LeftOut, Part
from esops.archive_format.disk_map import DiskMap
from esops.archive_format.hashes import Digest
from esops.archive_format.schema import time_of
from esops.errors import Refused, UsageError
from esops.events import EventFilter, StreamInfo, StreamRef
from esops.moments import Moment, between
from esops.settings import PolicySettings, Removal, StreamPortion
from esops.stores.archiving import RemovalStrategy
from esops.stores.base import EventStore, require
from esops.stores.filters import check_filter

if TYPE_CHECKING:
    from esops.stores.archive.own_runs import SealedRun

log = structlog.get_logger("esops.archive")

_APART, _APART_AT_MOST = timedelta(minutes=1), timedelta(hours=1)
"""How far two clocks may be apart before that is said, and before nothing goes by them."""
_STREAMS_IN_LINE = 1_000
KEEP = RemovalStrategy("keep", what="removes nothing")


def removal_strategy(
    store: EventStore, policy: PolicySettings, removal: Removal, part: StreamPortion | None = None
) -> RemovalStrategy:
    """How a policy's streams leave their store; `part` is what a run has sealed of them, whatever
    the policy says by now.

    Raises UsageError if the store cannot do it, or if the policy contradicts it.
    """
    if removal == "keep":
        return KEEP
    archiving = require(store, store.archiving, "archiving")
    strategy = archiving.removal_strategy(removal)
    whole = (part or policy.part) == "whole"
    if whole and policy.reuse == "refuse":
        return _without_reuse(store, strategy)
    return strategy if whole else _of_heads(store, policy, strategy)


def _without_reuse(store: EventStore, strategy: RemovalStrategy) -> RemovalStrategy:
    """A strategy after which no name begins another stream. Raises UsageError where it cannot."""
    if strategy.continuing is not None:
        return strategy.continuing
    if strategy.reuse in ("continues", "refused"):
        return strategy
    raise UsageError(
        f'in store {store.name}, remove = "{strategy.name}" cannot keep names of removed streams '
        'from being used again, and the policy says reuse = "refuse"',
        hint=strategy.again or "Remove `reuse` from the policy.",
    )


def _of_heads(
    store: EventStore, policy: PolicySettings, strategy: RemovalStrategy
) -> RemovalStrategy:
    """A strategy as it shortens streams. Raises UsageError where it cannot."""
    what, heads = f'in store {store.name}, remove = "{strategy.name}"', strategy.heads
    if heads is None:
        raise UsageError(
            f"{what} can only remove whole streams, and the policy is to shorten them"
            + (f": {strategy.only_whole}" if strategy.only_whole else ""),
            hint="Remove `until`, `keep_last` and `older_than` from the policy, or use another "
            "value of `remove`.",
        )
    if heads.until_only and not policy.until:
        raise UsageError(
            f"{what} shortens streams only up to an event that carries the state: the library "
            "loads a stream from its first event",
            hint="Name the type of that event with `until`.",
        )
    return replace(
        strategy, keeps=1, at_once=heads.at_once, what=heads.what, statements=heads.statements
    )


def selected(
    store: EventStore,
    policy: PolicySettings,
    strategy: RemovalStrategy,
    now: datetime,
    archived: ArchivedVersions | None,
    *,
    measured: bool = False,
    left_out: Callable[[LeftOut], None] = lambda _: None,
    denied: Callable[[str], None] = lambda _: None,
) -> Iterator[Part]:
    """What a policy takes of the streams that it applies to, by name.

    Streams of which nothing could be removed are left out, and so are those that `archived` has
    completely. `measured`: with the bytes that each stream takes in the store. `left_out` is called
    for each stream that is left out for a reason that an operator should know, and `denied`, at the
    end, with the name of each that this user may not read, its settings included.
    """
    ages = StreamAges(store, now)
    streams = _old(
        store, policy, strategy, ages, _streams(store, policy, strategy, measured, denied), left_out
    )
    with ExitStack() as stack:
        parts: Iterator[Part] = map(Part, streams)
        if policy.part == "head":
            heads = stack.enter_context(Heads(store, policy, strategy, ages, left_out))
            parts = heads.of(streams)
        for part in parts:
            if archived is None or not archived.has(part):
                yield part


def _streams(
    store: EventStore,
    policy: PolicySettings,
    strategy: RemovalStrategy,
    measured: bool,
    denied: Callable[[str], None],
) -> Iterator[StreamInfo]:
    """The streams that a policy applies to, however old they are."""
    never = re.compile(strategy.never) if strategy.never else None
    can = store.capabilities
    if policy.tenant is not None and not (can.tenants or can.named_tenants):
        raise UsageError(
            f"store {store.name} does not tell streams apart by tenant, so the policy's `tenant` "
            "would select none",
            hint="Remove `tenant` from the policy. Where the tenant is a part of the streams' "
            "names, use `stream`.",
        )
    servers = can.server_streams
    unread: list[str] = []

    def named(stream: str) -> bool:
        if (servers and stream.startswith("$")) or (never is not None and never.search(stream)):
            return False
        return policy.stream is None or fnmatchcase(stream, policy.stream)

    for info in store.many_streams.allowed(
        EventFilter(category=policy.category),
        unread,
        closed_by=policy.closed_by,
        measured=measured,
        with_settings=True,
    ):
        if not named(info.name):
            continue
        if policy.tenant is not None and info.tenant != policy.tenant:
            continue
        if info.length < policy.min_length or (policy.closed_by and not info.closed):
            continue
        if strategy.name != "keep" and info.length <= strategy.keeps:
            continue
        yield info
    for stream in sorted(filter(named, unread)):
        denied(stream)


def _old(
    store: EventStore,
    policy: PolicySettings,
    strategy: RemovalStrategy,
    ages: StreamAges,
    streams: Iterator[StreamInfo],
    left_out: Callable[[LeftOut], None],
) -> Iterator[StreamInfo]:
    """Those of the streams that are old enough, with the times by which they are."""
    # Of a stream that is shortened only the head has to be old.
    floor = policy.floor(strategy.name) if policy.part == "whole" else timedelta(0)
    if not policy.idle_for and not floor:
        yield from streams
        return
    while group := list(islice(streams, _STREAMS_IN_LINE)):
        listed = ages.last_appends([info.key for info in group])
        for info in group:
            first, last = _ends(store, info)
            at = listed.get(info.key)
            # Any event at an infinity may be the last one.
            idle = None if between(first, last) is None else ages.of_end(last, at)
            if idle is None:
                left_out("ageless")
            elif idle >= policy.idle_for:
                if idle >= floor:
                    yield replace(info, last_at=max(last, at)) if last and at else info
                else:
                    left_out("young")
            elif (own := between(last, ages.now)) and own >= max(policy.idle_for, floor):
                left_out("appended")


def check_names(
    store: EventStore, policy: PolicySettings, name: str, earlier: Sequence[SealedRun]
) -> None:
    """Raises UsageError where a policy that selects nothing names a category or types that the
    store does not have: never, as far as its earlier runs tell, which are the store's.
    """
    if any(manifest.policy == name for _, manifest in earlier):
        return  # all of them may have been archived and removed
    where = f"policy {name}: "
    check_filter(store, EventFilter(category=policy.category, archived=True), where)
    for types in (policy.closed_by, policy.until):
        check_filter(store, EventFilter(types=types, archived=True), where)


def young(
    store: EventStore,
    part: StreamPortion,
    digests: Sequence[Digest],
    floor: timedelta,
    ages: StreamAges,
) -> Iterator[Literal["young", "ageless"] | None]:
    """Of each archived stream, whether its last archived event is younger than a policy's floor, or
    nobody knows how old it is.
    """
    # Where the store's list has the time of the stream's end, that says nothing of a head.
    keys = [digest.key for digest in digests]
    listed = ages.last_appends(keys) if part == "whole" else {}
    for digest in digests:
        last = time_of(digest.last_at)
        if last is None:  # some stores have their times in the payloads
            events = store.read_stream(digest.stream, digest.last_version + 1, backwards=True)
            event = next((each for each in events if each.tenant == digest.tenant), None)
            if event is None:
                yield None  # it is gone
                continue
            last = event.moment
        age = ages.of_end(last, listed.get(digest.key))
        yield "ageless" if age is None else "young" if age < floor else None


def _ends(store: EventStore, info: StreamInfo) -> tuple[Moment | None, Moment | None]:
    """The times of a stream's first and last event, as far as they are known."""
    first, last = info.first_at, info.last_at
    if last is None:
        event = next(iter(store.read_stream(info.name, backwards=True, limit=1)), None)
        first = last = None if event is None else event.moment
    return first, last


DENIED = "this user may not read it, or not its metadata: grant the rights, or use another user"
"""Why such a stream is left out."""


class ArchivedVersions(DiskMap):
    """The streams of a store that an archive holds, each with the last archived version."""

    def __init__(self, runs: Sequence[SealedRun]) -> None:
        """Read the lists of streams of the store's runs. Raises Damaged, Missing, Unavailable."""
        super().__init__()
        self._any = False
        for run, manifest in runs:
            for digest, _ in run.streams(manifest):
                self._any = True
                # A stream can be in several runs: it was kept, and grew.
                before = self.get(*digest.key)
                if before is None or before < digest.last_version:
                    self.put(*digest.key, digest.last_version)

    def has(self, part: Part) -> bool:
        """Whether all of it is archived."""
        if not self._any:
            return False
        up_to = self.get(*part.info.key)
        return up_to is not None and part.last_version <= up_to


class Selection:
    """The streams that were selected, in a temporary file. A context manager.

    The statement that selects has ended before the export begins, and memory does not grow with
    the number of streams.
    """

    def __init__(self, parts: Iterator[Part]) -> None:
        """Write down all that the iterator gives."""
        self.count, self.events = 0, 0
        self._file = tempfile.TemporaryFile(prefix="esops-archive-")  # noqa: SIM115 - closed by __exit__
        while group := [part.ref for part in islice(parts, _STREAMS_IN_LINE)]:
            self.count += len(group)
            self.events += sum(ref.events for ref in group)
            self._file.write(orjson.dumps([tuple(ref) for ref in group]) + b"\n")

    def __iter__(self) -> Iterator[StreamRef]:
        """The streams, as an export needs them."""
        self._file.seek(0)
        for line in self._file:
            yield from map(StreamRef._make, orjson.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def now(store: EventStore, policy: PolicySettings, removal: Removal) -> datetime:
    """The time by which the ages of streams are counted: that of the store's clock, which has given
    the events theirs.

    Raises Refused where a policy goes by ages and the clock of this machine says another hour.
    """
    clock, here = store.ping().clock, datetime.now(UTC)
    apart = abs(clock - here)
    by_ages = policy.idle_for or policy.older_than or policy.floor(removal)
    if apart > _APART_AT_MOST and by_ages:
        raise Refused(
            f"the clock of store {store.name} says {clock:%Y-%m-%d %H:%M} UTC, and that of this "
            f"machine {here:%Y-%m-%d %H:%M} UTC: one of them is wrong, and so are all ages",
            hint="Nothing was archived. Set the wrong clock, and run this again.",
        )
    if apart > _APART:
        log.warning(
            "the store's clock and that of this machine differ; ages are by the store's",
            store=store.name,
            seconds=round(apart.total_seconds()),
        )
    return clock


def scavenges(store: EventStore, policy: PolicySettings, removal: str) -> bool:
    """Whether a run of a policy ends with a scavenge."""
    return policy.scavenge and removal != "keep" and store.admin is not None
