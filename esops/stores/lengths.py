"""How long streams are: the part of a store that counts them, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from esops.events import EventFilter, StreamInfo
from esops.stores.parts import EVERYTHING


class LengthCount(NamedTuple):
    """How many streams of a category and tenant have one length."""

    category: str | None
    tenant: str
    length: int
    streams: int


class LengthCounts(NamedTuple):
    """How many streams there are of each length, and where that is known from."""

    counts: Iterator[LengthCount]
    how: str
    denied: Sequence[str] = ()
    """Streams that this user may not read, and that are not counted. Known when `counts` begins."""
    commands: int | None = None
    """How many commands lie in the streams beside their events; None where a store keeps none."""


class MonthCount(NamedTuple):
    """How many events of a category were recorded in a month (`2026-11`)."""

    category: str | None
    month: str
    events: int


class SampledPage(NamedTuple):
    """One page of a table, taken at random: how many events it has, and how long the stream of one
    of them is.
    """

    category: str | None
    tenant: str
    events: int
    length: int


class LengthSample(NamedTuple):
    """Pages of a table, each taken with the same probability, `share` (0 to 1)."""

    share: float
    pages: list[SampledPage]
    how: str


class StreamLengths(Protocol):
    """How long streams are and how fast they grow.

    `counted` asks for a count of the events where a store would otherwise answer from its own list
    of streams, which says how long streams have ever been.
    """

    def reads_everything(self, *, counted: bool = False) -> bool:
        """Whether `counts` looks at every event or stream."""
        ...

    def counts(self, filter: EventFilter = EVERYTHING, *, counted: bool = False) -> LengthCounts:
        """How many streams there are of each length, exactly."""
        ...

    def longest(
        self,
        limit: int,
        filter: EventFilter = EVERYTHING,
        *,
        over: int = 0,
        closed_by: Sequence[str] = (),
        since: datetime | None = None,
        counted: bool = False,
    ) -> list[StreamInfo]:
        """The longest streams of more than `over` events, the longest first, with their sizes.

        With `since`, `recent` of each says how many of its events are newer than that.
        """
        ...

    def grown(
        self, since: datetime, over: int, filter: EventFilter = EVERYTHING
    ) -> Iterator[tuple[StreamInfo, int]]:
        """The streams that got more than `over` events since a time, and how many each got.

        Nothing where the store keeps no times.
        """
        ...

    def monthly(self, filter: EventFilter = EVERYTHING) -> list[MonthCount]:
        """Events by category and month (UTC), from all events; empty where there are no times."""
        ...

    def sample(self, pages: int, filter: EventFilter = EVERYTHING) -> LengthSample | None:
        """About this many pages of the events, chosen at random.

        None where counting costs as little, or where the store cannot take a sample.
        """
        ...
