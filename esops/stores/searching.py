"""What every search begins with: which one kind of id is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from esops.events import asked_for
from esops.stores.parts import Ids, Search, SearchResult


@dataclass(frozen=True, slots=True)
class SoughtIds:
    """The ids that a search is for, all of one kind."""

    kind: str
    """`event_id`, `correlation_id` or `causation_id`."""
    values: tuple[str, ...]
    keys: Sequence[str]
    """The keys of the metadata to look under; empty for those of the field's conventions."""


class IdSearch(ABC):
    """A Search (esops.stores.parts) that knows which ids it is for."""

    def find(
        self,
        *,
        event_id: Ids | None = None,
        correlation_id: Ids | None = None,
        causation_id: Ids | None = None,
        keys: Sequence[str] = (),
    ) -> SearchResult:
        """See Search."""
        kind, values = asked_for(
            event_id=event_id, correlation_id=correlation_id, causation_id=causation_id
        )
        return self.find_ids(SoughtIds(kind, values, keys))

    def once(self) -> Search:
        """One that answers the same for several searches, and reads a log without an index once."""
        return self

    @abstractmethod
    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """The events that have one of these ids; none is read before the result is iterated."""
