"""`esops audit streams`: a summary, the longest streams, and the budgets that are broken."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

from esops.audit.budgets import MOST, BudgetBreach, Budgets
from esops.audit.distribution import Distribution
from esops.events import EventFilter, StreamInfo
from esops.moments import between
from esops.settings import AuditSettings
from esops.stores.base import EventStore, require
from esops.stores.filters import nothing_passes

LONGEST = 1_000
LISTED = 100
"""Streams in the table of a report."""
MANY = 5_000_000
"""Events that are read within some seconds. Reading more is announced."""
_LOOKED_UP = 200
"""Streams whose first and last event are read if the store's tables do not have their times."""


@dataclass(frozen=True)
class StreamsRequest:
    """What to look at, and what to list."""

    category: str | None = None
    """Only streams of this category."""
    archived: bool = False
    """Include streams that the store has marked as archived."""
    counted: bool = False
    """Count the events themselves instead of using the store's list of streams."""
    longest: int = LONGEST
    """How many streams to list."""
    over: int = 0
    """List only streams with more events than this."""
    growth: bool = False
    """Count how many events each listed stream got within the window."""
    window: timedelta = timedelta(days=7)

    @property
    def filter(self) -> EventFilter:
        """The filter for the store."""
        return EventFilter(category=self.category, archived=self.archived)


EVERYTHING = StreamsRequest()


@dataclass
class StreamsAudit:
    """What an audit found."""

    store: str
    how: str
    """Where the lengths come from, as a phrase."""
    window: timedelta
    commands: int | None = None
    """How many commands lie beside the events; None where the store keeps none. Lengths and budgets
    are of events.
    """
    whole: Distribution = field(default_factory=Distribution)
    categories: dict[tuple[str | None, str], Distribution] = field(default_factory=dict)
    """By category and tenant."""
    longest: list[StreamInfo] = field(default_factory=list)
    breaches: list[BudgetBreach] = field(default_factory=list)
    """The worst of them, at most MOST."""
    broken: int = 0
    """How many breaches there are."""
    budgets: int = 0
    """How many budgets are configured."""
    denied: list[str] = field(default_factory=list)
    """Streams that this user may not read. Nothing here counts them."""
    unmatched: list[str] = field(default_factory=list)
    """A sentence for each budget that fits no category of the store."""

    def as_dict(self, *, full: bool = False, growth: bool = False) -> dict[str, Any]:
        """The audit under the documented field names; `full` adds histograms."""
        return {
            "store": self.store,
            "counted_from": self.how,
            "summary": {**self.whole.as_dict(full=full), "commands": self.commands},
            "categories": [
                {"category": category, "tenant": tenant, **each.as_dict(full=full)}
                for (category, tenant), each in self.ordered()
            ],
            "streams": [
                stream_as_dict(info, self.window if growth else None) for info in self.longest
            ],
            "findings": [breach.as_dict() for breach in self.breaches],
            "findings_total": self.broken,
            "unmatched_budgets": self.unmatched,
            "denied": self.denied,
        }

    def ordered(self) -> list[tuple[tuple[str | None, str], Distribution]]:
        """The categories, the one with the most events first."""
        return sorted(
            self.categories.items(),
            key=lambda each: (-each[1].events, each[0][0] or "", each[0][1]),
        )


STREAM_COLUMNS = (
    "stream",
    "category",
    "length",
    "first_at",
    "last_at",
    "bytes",
    "archived",
    "closed",
    "growth_per_day",
)


def stream_columns(store: EventStore) -> Sequence[str]:
    """The columns of a list of streams: with their tenant, where a store has tenants."""
    named = store.capabilities.tenants or store.capabilities.named_tenants
    return (STREAM_COLUMNS[0], "tenant", *STREAM_COLUMNS[1:]) if named else STREAM_COLUMNS


def stream_as_dict(info: StreamInfo, window: timedelta | None = None) -> dict[str, Any]:
    """A stream under the documented field names.

    `growth_per_day` is over its whole life; `recent_per_day` over the window, if one is given.
    """
    found: dict[str, Any] = {
        "stream": info.name,
        "category": info.category,
        "length": info.length,
        "first_version": info.first_version,
        "last_version": info.last_version,
        "first_at": info.first_at,
        "last_at": info.last_at,
        "bytes": info.bytes,
        "archived": info.archived,
        "closed": info.closed,
        "growth_per_day": growth_per_day(info),
    }
    if info.tenant:
        found["tenant"] = info.tenant
    if info.commands is not None:
        found["commands"] = info.commands
    if window is not None and info.recent is not None:
        found["recent_per_day"] = round(info.recent / (window / timedelta(days=1)), 2)
    return found


def growth_per_day(info: StreamInfo) -> float | None:
    """Events a day between the first and the last event; None if their times are unknown or
    unbounded.

    A life of less than a day counts as one day.
    """
    life = between(info.first_at, info.last_at)
    return None if life is None else round(info.length / max(1.0, life / timedelta(days=1)), 2)


def audit_streams(
    store: EventStore,
    settings: AuditSettings,
    request: StreamsRequest = EVERYTHING,
    say: Callable[[str], None] = lambda _: None,
) -> StreamsAudit:
    """Audit the streams of a store. `say` is called before something takes long.

    Raises UsageError for a budget that cannot be checked, and for a category that the store does
    not have.
    """
    budgets = Budgets(settings, store.name)
    lengths = require(store, store.lengths, "lengths")
    if lengths.reads_everything(counted=request.counted):
        events = store.counts.between(None, store.head(timedelta(0)).position)
        if events > MANY:
            say(
                f"counting the streams of about {events:,} events, which takes a while; "
                "--estimate takes a sample instead, if the store supports that"
            )
    counts = lengths.counts(request.filter, counted=request.counted)
    found = StreamsAudit(store.name, counts.how, request.window, counts.commands)
    servers = store.capabilities.server_streams
    for each in counts.counts:
        if servers and (each.category or "").startswith("$"):
            continue
        found.whole.add(each.length, each.streams)
        found.categories.setdefault((each.category, each.tenant), Distribution()).add(
            each.length, each.streams
        )
    found.denied = sorted(counts.denied)
    if not found.whole.streams and not found.denied:
        error = nothing_passes(store, EventFilter(category=request.category, archived=True))
        if error is not None:
            raise error
    if request.longest:
        found.longest = _longest(store, settings, request)
    if budgets.expensive:
        say(f"budgets of bytes or open streams read each of {found.whole.events:,} events")
    _check_budgets(found, budgets, store, request)
    return found


def _longest(
    store: EventStore, settings: AuditSettings, request: StreamsRequest
) -> list[StreamInfo]:
    longest = require(store, store.lengths, "lengths").longest(
        request.longest,
        request.filter,
        over=request.over,
        closed_by=settings.closed_by,
        since=datetime.now(UTC) - request.window if request.growth else None,
        counted=request.counted,
    )
    return list(_dated(store, longest))


def _check_budgets(
    found: StreamsAudit, budgets: Budgets, store: EventStore, request: StreamsRequest
) -> None:
    """Count all breaches of budgets, and keep the worst of them."""
    by_category: dict[str | None, list[Distribution]] = {}
    for (category, _), each in found.categories.items():
        by_category.setdefault(category, []).append(each)
    longer_than = {category: _longer_than(each) for category, each in by_category.items()}
    # The distributions tell how many streams are too long, so that only the worst are read.
    found.broken = budgets.count_too_long(longer_than)
    found.budgets = len(budgets.patterns)
    # Budgets of other categories say nothing about the one that was asked for.
    if request.category is None and found.categories:
        found.unmatched = budgets.unmatched(store, by_category)
    others = budgets.other_breaches(store, request.filter, request.window)

    def fewer(number: int) -> None:
        found.broken -= number

    breaches = chain(
        budgets.length_breaches(store, longer_than, request.filter, fewer),
        _counting(found, others),
    )
    found.breaches = heapq.nlargest(MOST, breaches, _times_limit)


def _counting(found: StreamsAudit, breaches: Iterable[BudgetBreach]) -> Iterator[BudgetBreach]:
    for breach in breaches:
        found.broken += 1
        yield breach


def _times_limit(breach: BudgetBreach) -> float:
    """How many times its limit a value is: the greater, the worse."""
    return breach.value / breach.limit if breach.limit else float(breach.value)


def _longer_than(distributions: Sequence[Distribution]) -> Callable[[int], int]:
    return lambda length: sum(each.over(length) for each in distributions)


def listed(
    store: EventStore, settings: AuditSettings, request: StreamsRequest, denied: list[str]
) -> Iterator[StreamInfo]:
    """Every stream by name, with its bytes, in the order in which the store returns them. Names of
    streams that this user may not read go into `denied`.
    """
    return store.many_streams.allowed(
        request.filter, denied, closed_by=settings.closed_by, measured=True, counted=request.counted
    )


def _dated(store: EventStore, streams: Sequence[StreamInfo]) -> Iterator[StreamInfo]:
    """Streams with the times of their first and last event."""
    for number, info in enumerate(streams):
        # Two reads for each stream: only the first of the list are worth them.
        if info.last_at is not None or number >= _LOOKED_UP:
            yield info
            continue
        ends = [
            next(iter(store.read_stream(info.name, backwards=backwards, limit=1)), None)
            for backwards in (False, True)
        ]
        times = [None if event is None else event.moment for event in ends]
        yield replace(info, first_at=times[0], last_at=times[1])
