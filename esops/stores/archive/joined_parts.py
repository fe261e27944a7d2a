"""What names and times are in a store and its archive together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from esops.events import EventFilter, RecordedEvent, StreamKey
from esops.moments import Moment
from esops.stores.names import StoreNames, What
from esops.stores.parts import WITH_ARCHIVED
from esops.stores.times import EventTimes

if TYPE_CHECKING:
    from esops.stores.archive.joined import JoinedStore


class JoinedNames(StoreNames):
    """StoreNames of a store and its archive."""

    def __init__(self, store: JoinedStore) -> None:
        """`renewed` of the store gives the archive as it is now."""
        super().__init__(store)
        self._joined = store

    def of(self, what: What) -> list[str]:
        """Those of both stores."""
        hot, cold = self._joined.hot, self._joined.cold
        return sorted({*hot.names.of(what), *cold.names.of(what)})

    def any_passes(self, filter: EventFilter) -> bool | None:
        """Whether an event of either store passes."""
        hot = self._joined.hot.names.any_passes(filter)
        return hot if hot is None or hot else self._joined.renewed().names.any_passes(filter)

    def absent_tenant(self) -> str | None:
        """Of a tenant of which the archive has nothing either."""
        absent = self._joined.hot.names.absent_tenant()
        if absent and self._joined.renewed().names.any_passes(WITH_ARCHIVED) is not False:
            return None
        return absent


class JoinedTimes(EventTimes):
    """EventTimes by the hot store's list of streams; its index has not all of the events."""

    def __init__(self, store: JoinedStore) -> None:
        """`hot` of the store has the list."""
        super().__init__(store)
        self._listed = store.hot.times

    def last_appends(self, keys: Sequence[StreamKey]) -> dict[StreamKey, Moment]:
        """By the hot store's list."""
        return self._listed.last_appends(keys)

    def dated_early_by(self) -> timedelta:
        """The hot store's."""
        return self._listed.dated_early_by()

    def appended_at(self, event: RecordedEvent) -> Moment | None:
        """By the hot store's list."""
        return self._listed.appended_at(event)
