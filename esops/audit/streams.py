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
from esops.settings import AuditSettings
from esops.stores.base import EventStore, require

LONGEST = 1_000
LISTED = 100
"""Streams in the table of a report."""
MANY = 5_000_000
"""Events that are looked at in some seconds: for more, it is said before."""
_LOOKED_UP = 200
"""Streams whose ends are read one by one, where the store's tables do not tell their times."""


@dataclass
class StreamsAudit:
    """What an audit found."""

    store: str
    how: str
    window: timedelta
    whole: Distribution = field(default_factory=Distribution)
    categories: dict[tuple[str | None, str], Distribution] = field(default_factory=dict)
    longest: list[StreamInfo] = field(default_factory=list)
    findings: list[BudgetBreach] = field(default_factory=list)
    broken: int = 0
    """How many findings there are; the worst of them are in `findings`."""

    def as_dict(self, *, full: bool = False, growth: bool = False) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "store": self.store,
            "counted_from": self.how,
            "summary": self.whole.as_dict(full=full),
            "categories": [
                {"category": category, "tenant": tenant, **each.as_dict(full=full)}
                for (category, tenant), each in self.ordered()
            ],
            "streams": [
                stream_as_dict(info, self.window if growth else None) for info in self.longest
            ],
            "findings": [finding.as_dict() for finding in self.findings],
            "findings_total": self.broken,
        }

    def ordered(self) -> list[tuple[tuple[str | None, str], Distribution]]:
        """The categories, the one with the most events first."""
        return sorted(
            self.categories.items(),
            key=lambda each: (-each[1].events, each[0][0] or "", each[0][1]),
        )


def stream_as_dict(info: StreamInfo, window: timedelta | None = None) -> dict[str, Any]:
    """A stream under the documented field names; `growth_per_day` over all its life,
    `recent_per_day` over the window.
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
    if window is not None and info.recent is not None:
        found["recent_per_day"] = round(info.recent / (window / timedelta(days=1)), 2)
    return found


def growth_per_day(info: StreamInfo) -> float | None:
    """Events a day from the first to the last; of less than a day as if it were one.

    None where times are not known.
    """
    if info.first_at is None or info.last_at is None:
        return None
    return round(info.length / max(1.0, (info.last_at - info.first_at) / timedelta(days=1)), 2)


def audit_streams(
    store: EventStore,
    settings: AuditSettings,
    *,
    category: str | None = None,
    longest: int = LONGEST,
    over: int = 0,
    window: timedelta = timedelta(days=7),
    counted: bool = False,
    archived: bool = False,
    growth: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> StreamsAudit:
    """Look at all streams of a store, or at those of one category.

    `say` is told what is about to be dear. Raises UsageError.
    """
    budgets = Budgets(settings)
    filter = EventFilter(category=category, archived=archived)
    streams = require(store, store.lengths, "lengths")
    if streams.reads_everything(counted=counted):
        events = store.count_between(None, store.head(timedelta(0)).position)
        if events > MANY:
            say(
                f"counting streams over about {events:,} events; --estimate takes a sample "
                "instead, where the store can"
            )
    lengths = streams.counts(filter, counted=counted)
    found = StreamsAudit(store.name, lengths.how, window)
    for each in lengths.counts:
        if (each.category or "").startswith("$"):
            continue
        found.whole.add(each.length, each.streams)
        found.categories.setdefault((each.category, each.tenant), Distribution()).add(
            each.length, each.streams
        )
    since = datetime.now(UTC) - window if growth else None
    closed_by = settings.closed_by
    if longest:
        found.longest = list(
            _dated(
                store,
                streams.longest(
                    longest, filter, over=over, closed_by=closed_by, since=since, counted=counted
                ),
            )
        )
    if budgets.expensive:
        say(
            f"budgets of bytes or open streams take a look at each of {found.whole.events:,} events"
        )
    over_in = {
        category: _over([each for (name, _), each in found.categories.items() if name == category])
        for category in {name for name, _ in found.categories}
    }
    found.broken = budgets.count_too_long(over_in)
    others = budgets.other_breaches(store, filter, window)
    found.findings = heapq.nlargest(
        MOST,
        chain(budgets.length_breaches(store, over_in, filter), _counting(found, others)),
        _excess,
    )
    return found


def _counting(found: StreamsAudit, findings: Iterable[BudgetBreach]) -> Iterator[BudgetBreach]:
    for finding in findings:
        found.broken += 1
        yield finding


def _excess(finding: BudgetBreach) -> float:
    """How many times its limit a value is: the worst are named first."""
    return finding.value / finding.limit if finding.limit else float(finding.value)


def listed(
    store: EventStore, settings: AuditSettings, category: str | None, archived: bool
) -> Iterator[StreamInfo]:
    """Every stream by name, measured, as the store gives them out."""
    filter = EventFilter(category=category, archived=archived)
    return iter(store.streams(filter, closed_by=settings.closed_by, measured=True))


def _over(distributions: Sequence[Distribution]) -> Callable[[int], int]:
    return lambda length: sum(each.over(length) for each in distributions)


def _dated(store: EventStore, streams: Sequence[StreamInfo]) -> Iterator[StreamInfo]:
    """Streams with the times of their ends, read from the events where the tables do not tell."""
    for number, info in enumerate(streams):
        if info.last_at is not None or number >= _LOOKED_UP:
            yield info
            continue
        ends = [
            next(iter(store.read_stream(info.name, backwards=backwards, limit=1)), None)
            for backwards in (False, True)
        ]
        times = [
            event.recorded_at if event is not None and event.recorded_at.year > 1970 else None
            for event in ends
        ]
        yield replace(info, first_at=times[0], last_at=times[1])
