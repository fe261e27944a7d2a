"""`esops audit streams --estimate`: what an audit would find, estimated from a sample of events.

From each sampled page of the table one event is drawn at random, and the length of its stream is
looked up through the index. A stream of n events is drawn n times as often as a stream of one, so
that each counts for 1/n. These are the estimators of Horvitz and Thompson (1952) for the pages and
of Hansen and Hurwitz (1943) for the streams. Intervals have a confidence of 95%; those of
percentiles go by ranks (Woodruff 1952).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from esops.events import EventFilter
from esops.stores.base import EventStore, require
from esops.stores.lengths import (
    LengthSample,
    SampledPage,
)

PAGES = 2_000
_Z_95 = 1.96
"""The standard normal quantile of a two-sided interval of 95%."""
_SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Estimate:
    """An estimated value, and the interval that holds the true one with 95% confidence."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, int]:
        """Value and interval as whole numbers."""
        return {name: round(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class StreamsEstimate:
    """What a sample says about a store's streams."""

    store: str
    how: str
    summary: dict[str, Estimate]
    longest_seen: int
    """The longest stream in the sample. The longest of all is at least as long."""
    categories: list[tuple[str | None, str, Estimate, Estimate]]
    """Category, tenant, number of streams, number of events."""

    def as_dict(self) -> dict[str, Any]:
        """The estimate under the documented field names."""
        return {
            "store": self.store,
            "estimated": True,
            "counted_from": self.how,
            "summary": {
                **{name: estimate.as_dict() for name, estimate in self.summary.items()},
                "longest_seen": self.longest_seen,
            },
            "categories": [
                {
                    "category": category,
                    "tenant": tenant,
                    "streams": streams.as_dict(),
                    "events": events.as_dict(),
                }
                for category, tenant, streams, events in self.categories
            ],
        }


def estimate(store: EventStore, filter: EventFilter, pages: int = PAGES) -> StreamsEstimate | None:
    """Draw a sample and estimate from it; None if counting this store is as quick."""
    sample = require(store, store.lengths, "lengths").sample(pages, filter)
    return None if sample is None else estimate_from(store.name, sample)


def estimate_from(store: str, sample: LengthSample) -> StreamsEstimate:
    """Estimate from a sample that was drawn."""
    pages = [each for each in sample.pages if each.length > 0]
    summary = {
        **dict(zip(("streams", "events"), _totals(pages, sample.share), strict=True)),
        **{name: _percentile(pages, share) for name, share in _SHARES.items()},
    }
    groups: dict[tuple[str | None, str], list[SampledPage]] = {}
    for each in pages:
        groups.setdefault((each.category, each.tenant), []).append(each)
    categories = [
        (category, tenant, *_totals(theirs, sample.share))
        for (category, tenant), theirs in groups.items()
    ]
    categories.sort(key=lambda each: (-each[3].value, each[0] or "", each[1]))
    return StreamsEstimate(
        store, sample.how, summary, max((each.length for each in pages), default=0), categories
    )


def _totals(pages: Sequence[SampledPage], share: float) -> tuple[Estimate, Estimate]:
    """How many streams and how many events there are."""
    streams = [each.events / each.length for each in pages]
    events = [each.events for each in pages]
    return _total(streams, share), _total(events, share)


def _total(values: Sequence[float], share: float) -> Estimate:
    """The sum over all pages of the table; each was drawn with the probability `share`."""
    total = math.fsum(values) / share
    error = (
        _Z_95
        * math.sqrt(max(0.0, 1 - share) * math.fsum(value * value for value in values))
        / share
    )
    return Estimate(total, max(0.0, total - error), total + error)


def _percentile(pages: Sequence[SampledPage], share: float) -> Estimate:
    weighted = sorted((each.length, each.events / each.length) for each in pages)
    if not weighted:
        return Estimate(0, 0, 0)
    whole = math.fsum(weight for _, weight in weighted)
    # How many equally weighted streams would tell as much (Kish's effective sample size).
    effective = whole * whole / math.fsum(weight * weight for _, weight in weighted)
    error = _Z_95 * math.sqrt(share * (1 - share) / effective)
    low, value, high = (
        _at(weighted, whole * rank)
        for rank in (max(0.0, share - error), share, min(1.0, share + error))
    )
    return Estimate(value, low, high)


def _at(weighted: Sequence[tuple[int, float]], rank: float) -> int:
    seen = 0.0
    for length, weight in weighted:
        seen += weight
        if seen >= rank:
            return length
    return weighted[-1][0]
