"""What every search begins with: which one kind of id is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from esops.causality import all_writings
from esops.events import asked_for
from esops.stores.parts import Ids, Search, SearchResult


@dataclass(frozen=True, slots=True)
class SoughtIds:
    """The ids that a search is for, all of one kind."""

    kind: str
    """`event_id`, `correlation_id`, `causation_id` or `trace_id`."""
    asked: tuple[str, ...]
    """The ids as they were given."""
    keys: Sequence[str]
    """The keys of the metadata to look under; empty for those of the field's conventions. For a
    trace id, the keys that hold what caused an event, which may be a span of that trace.
    """

    @property
    def values(self) -> tuple[str, ...]:
        """The ids in all writings that they may have in a store, such as UUIDs without dashes."""
        return all_writings(self.asked)


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

    def of_traces(self, traces: Sequence[str], keys: Sequence[str] = ()) -> SearchResult:
        """Events of W3C trace ids (32 hex digits), wherever an event has them: as its correlation,
        as `traceId`, in a `traceparent`, or in a traceparent that it names as its cause.

        `keys`: where causes are; empty for the field's conventions.
        """
        return self.find_ids(SoughtIds("trace_id", tuple(traces), keys))

    def not_events(self, ids: Sequence[str]) -> set[str]:  # noqa: ARG002 - most keep events only
        """Of some ids, those of messages that the store keeps beside its events, such as Emmett's
        commands, in the writing that all writings of an id share.
        """
        return set()

    def once(self) -> Search:
        """One that answers the same for several searches, and reads a log without an index once."""
        return self

    @abstractmethod
    def find_ids(self, sought: SoughtIds) -> SearchResult:
        """The events that have one of these ids; none is read before the result is iterated."""


def search_for(search: Search, sought: SoughtIds) -> SearchResult:
    """Ask any store's search. One of another package knows no trace ids: they are then looked for
    as correlation ids only.
    """
    if sought.kind != "trace_id":
        return search.find(**{sought.kind: sought.asked}, keys=sought.keys)
    of_traces = getattr(search, "of_traces", None)
    if of_traces is None:
        return search.find(correlation_id=sought.values)
    found: SearchResult = of_traces(sought.asked, sought.keys)
    return found
