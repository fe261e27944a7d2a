"""When events happened, beside what they say themselves: a part of every store.

`EventTimes` believes the events; a store brings its own where it has an index on the time, or where
it knows that events are dated wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from esops.events import Position, RecordedEvent, StreamKey
from esops.moments import Moment

if TYPE_CHECKING:
    from esops.stores.base import EventStore


class EventTimes:
    """The times of events, as these have them."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def positions_between(
        self,
        since: datetime,  # noqa: ARG002 - no index of times
        before: datetime | None,  # noqa: ARG002
    ) -> tuple[Position | None, Position] | None:
        """The positions between which (after the first, up to the second) all events lie that were
        recorded from one time on and before another, where an index tells; None where none does.
        """
        return None

    def last_appends(self, keys: Sequence[StreamKey]) -> dict[StreamKey, Moment]:  # noqa: ARG002
        """When streams were last appended to, as the store's own list of them has it beside the
        times of their events; a stream of which it has nothing is left out. Either of the two times
        may be the one that is too early.
        """
        return {}

    def dated_early_by(self) -> timedelta:
        """By how much events are dated earlier than they happened, at most, as far as the store's
        list of streams tells; zero where they are right, or nothing tells. May read all of it.
        """
        return timedelta(0)

    def appended_at(self, event: RecordedEvent) -> Moment | None:
        """When an event was appended: its own time, unless the store knows that to be wrong."""
        return event.moment
