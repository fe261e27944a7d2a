"""How many events lie between two positions, or pass a filter: a part of every store.

`EventCounts` reads the events and counts them; a store that can ask for a number brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from esops.events import EventFilter, Position

if TYPE_CHECKING:
    from esops.stores.base import EventStore


class Tally(NamedTuple):
    """Some events of a store, by what tells them from others where one comes or goes."""

    events: int
    numbers: int
    """The sum of the last numbers of their positions."""


class EventCounts:
    """Counts of events, by reading them."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def between(self, after: Position | None, until: Position | None) -> int:
        """How many events lie after one position up to another; an upper bound or an estimate
        where a count would be expensive. 0 only where there are none.
        """
        if until is None:
            return 0
        return sum(len(each.events) for each in self._store.read_all(after, until))

    def bounds(self, after: Position | None, until: Position | None) -> tuple[int, int]:
        """How many events these are at least and at most, as far as that is known."""
        events = self.between(after, until)
        return events, events

    def passing(
        self,
        filter: EventFilter,
        until: Position | None,
        at_most: int,
        after: Position | None = None,
        tenant: str = "",
    ) -> int:
        """How many events after one position and up to another pass a filter, those of one tenant
        where one is named; counted no further than `at_most`.
        """
        if until is None:
            return 0
        # A limit would be of events of all tenants.
        found = self._store.read_all(after, until, filter, None if tenant else at_most)
        events = (event for batch in found for event in batch.events)
        own = (event for event in events if not tenant or event.tenant == tenant)
        return sum(1 for _ in islice(own, at_most))

    def tallies(
        self,
        filter: EventFilter,  # noqa: ARG002 - not known
        until: Position | None,  # noqa: ARG002
    ) -> Mapping[str, Tally] | None:
        """How many events of each type pass a filter up to a position, without a look at their
        payloads; None where that takes as long as reading them.
        """
        return None
