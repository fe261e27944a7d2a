"""How long streams are: percentiles, a histogram, and the share of the longest streams.

All of it is computed from one number for each length. A store with a hundred million streams has
only some thousand different lengths, so that the results are exact and need little memory.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass
class Distribution:
    """How many streams there are of each length."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, length: int, streams: int = 1) -> None:
        """Add some streams of one length."""
        self.counts[length] += streams

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return self.counts.total()

    @property
    def events(self) -> int:
        """How many events they have together."""
        return sum(length * streams for length, streams in self.counts.items())

    @property
    def longest(self) -> int:
        """The greatest length; 0 if there is no stream."""
        return max(self.counts, default=0)

    def percentiles(self, shares: Iterable[float]) -> list[int]:
        """For each share (0 to 1), the smallest length that this share of streams does not exceed.

        The nearest rank, without interpolation: as SQL's percentile_disc and numpy's
        `inverted_cdf`. 0 if there is no stream.
        """
        ordered = sorted(self.counts.items())
        total, found = self.streams, []
        for share in shares:
            # Rounded first: 0.9 * 10 is a little more than 9 in floating point.
            rank, seen = max(1, math.ceil(round(share * total, 9))), 0
            value = 0
            for length, streams in ordered:
                seen += streams
                value = length
                if seen >= rank:
                    break
            found.append(value)
        return found

    def histogram(self) -> list[tuple[int, int, int, int]]:
        """Bins that double: (from, to, streams, events), the first of one event; those between that
        are empty are in it.
        """
        if not self.counts:
            return []
        bins: Counter[int] = Counter()
        events: Counter[int] = Counter()
        for length, streams in self.counts.items():
            # Powers of two: lengths from 1, from 2, from 4, from 8, …
            number = max(length, 1).bit_length() - 1
            bins[number] += streams
            events[number] += length * streams
        numbers = range(min(bins), max(bins) + 1)
        return [
            (1 << number, (2 << number) - 1, bins[number], events[number]) for number in numbers
        ]

    def spark(self) -> str:
        """The histogram as a line of blocks on a logarithmic scale; an empty bin is a space."""
        counts = [streams for _, _, streams, _ in self.histogram()]
        top = math.log1p(max(counts, default=0))
        return "".join(
            _BLOCKS[math.ceil(math.log1p(count) / top * (len(_BLOCKS) - 1))] for count in counts
        )

    def share_of_longest(self, share: float = 0.01) -> float:
        """The part of all events (0 to 1) that is in the longest streams.

        `share`: how many of the streams count as the longest; at least one does.
        """
        left = math.ceil(round(self.streams * share, 9))
        total, theirs = self.events, 0
        for length, streams in self._longest_first():
            taken = min(left, streams)
            theirs += taken * length
            left -= taken
            if not left:
                break
        return theirs / total if total else 0.0

    def over(self, length: int) -> int:
        """How many streams are longer than this."""
        return sum(streams for each, streams in self.counts.items() if each > length)

    def _longest_first(self) -> Iterator[tuple[int, int]]:
        return iter(sorted(self.counts.items(), reverse=True))

    def as_dict(self, *, full: bool) -> dict[str, Any]:
        """The distribution under the documented field names; `full` adds the histogram."""
        p50, p75, p90, p95, p99 = self.percentiles((0.5, 0.75, 0.9, 0.95, 0.99))
        streams, events = self.streams, self.events
        found: dict[str, Any] = {
            "streams": streams,
            "events": events,
            "mean": round(events / streams, 2) if streams else 0.0,
            "p50": p50,
            "p75": p75,
            "p90": p90,
            "p95": p95,
            "p99": p99,
            "max": self.longest,
            "longest_1_percent_share": round(self.share_of_longest(), 4),
        }
        if full:
            names = ("from", "to", "streams", "events")
            found["histogram"] = [dict(zip(names, each, strict=True)) for each in self.histogram()]
        return found
