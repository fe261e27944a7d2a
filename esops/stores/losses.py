"""Which streams have lost their first events: a part of every store.

`StreamLosses` looks at each stream; a store brings its own where it can ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from esops.events import EventFilter, Position, StreamInfo
from esops.stores.archiving import LateBeginning
from esops.stores.aside import LaterQuestion, Question
from esops.stores.parts import EVERYTHING, WITH_ARCHIVED
from esops.stores.shortened import Shortened, by_type

if TYPE_CHECKING:
    from esops.stores.base import EventStore

_OWN_LIMITS = {"$maxCount", "$maxAge"}
"""Settings of a stream."""


class StreamLosses:
    """Streams without their first events, by a look at each stream."""

    def __init__(self, store: EventStore) -> None:
        """Those of a store."""
        self._store = store

    def late_beginnings(self, filter: EventFilter = WITH_ARCHIVED) -> Iterator[LateBeginning]:
        """The streams, among those that a filter without its types wants, of which the first events
        are not there any more; of such that have none at all, those that the store's own list of
        streams shows.
        """
        for info in self._store.streams(replace(filter, types=())):
            yield from self._late(info)

    def _late(self, info: StreamInfo) -> Iterator[LateBeginning]:
        if info.length and info.first_version > self._store.capabilities.first_version:
            oldest = next(iter(self._store.read_stream(info.name, limit=1)), None)
            limited = oldest is None or not _OWN_LIMITS.isdisjoint(info.settings)
            kind = None if oldest is None else oldest.type
            yield LateBeginning(info.key, info.first_version, kind, limited, info.category)

    def shortened(
        self,
        filter: EventFilter = EVERYTHING,
        after: Position | None = None,  # noqa: ARG002 - where it takes no less time
    ) -> list[Shortened]:
        """The streams that a filter may want and whose first events are gone, by the type of event
        that they begin with now. What is gone may have had any type: types are left out only where
        no event of such streams is wanted.

        `after`: those at least that have lost an event after a position. Others are left out where
        the store finds these sooner.
        """
        return by_type(self._store, self.late_beginnings(filter), filter)

    def ask_shortened(self, filter: EventFilter = EVERYTHING) -> Question[list[Shortened]]:
        """`shortened`, asked at once and beside other work where the store can do so, else when the
        answer is taken. To be closed.
        """
        return LaterQuestion(lambda: self.shortened(filter))

    def compacted_after(
        self,
        position: Position,  # noqa: ARG002 - no library compacts streams there
        filter: EventFilter,  # noqa: ARG002
    ) -> list[Shortened]:
        """Of `shortened`, the streams in which the library has put a snapshot in the place of an
        event after a position: whoever has read up to there did not see all that it stands for.
        """
        return []
