"""How old streams and events are, by a store's clock and by all that it knows of their times.

The times of events can be too early: Marten's are, by the offset of a time zone, where a session
was not in UTC. So the time of a stream's last append in the store's own list of streams counts as
well, and the later of the two. Which of them is wrong does not matter: nothing leaves too early.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cached_property

import structlog

from esops.events import StreamKey
from esops.moments import Moment, between
from esops.stores.base import EventStore

log = structlog.get_logger("esops.archive")


class StreamAges:
    """The ages of a store's streams and events at one time."""

    def __init__(self, store: EventStore, now: datetime) -> None:
        """`now` is by the store's clock."""
        self._store, self.now = store, now

    @cached_property
    def early(self) -> timedelta:
        """By how much an event may be dated too early of which nothing else is known: by as much as
        any of the store is.
        """
        early = self._store.times.dated_early_by()
        if early:
            log.warning(
                "events are dated earlier than they happened; ages are counted without that",
                store=self._store.name,
                hours=round(early / timedelta(hours=1), 2),
            )
        return early

    def last_appends(self, keys: Sequence[StreamKey]) -> dict[StreamKey, Moment]:
        """When streams were last appended to, by the store's list; without those that are not in
        it.
        """
        return self._store.times.last_appends(keys)

    def of_end(self, last: Moment | None, listed: Moment | None) -> timedelta | None:
        """The age of a stream's end, by the time of its last event and by that in the store's list;
        None where it is unknown.
        """
        if listed is None:
            return self.of_event(last)
        age, other = between(last, self.now), between(listed, self.now)
        return None if age is None or other is None else min(age, other)

    def of_event(self, at: Moment | None) -> timedelta | None:
        """The least age that an event can have; None where it is unknown."""
        age = between(at, self.now)
        return None if age is None else age - self.early
