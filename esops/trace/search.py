"""Finds the events that belong to a trace.

Stores are asked once for each generation of causes and effects, not once for each event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from esops.causality import CAUSATION_STREAM, one_writing, trace_id
from esops.config import Config
from esops.errors import Refused
from esops.events import EventFilter
from esops.moments import within
from esops.stores import open_store
from esops.stores.base import EventStore, require
from esops.stores.parts import Search, SearchResult
from esops.stores.searching import SoughtIds, search_for
from esops.trace.graph import Forest, Keys, Node, build, connected, node, top_of
from esops.trace.messages import messages, parse_reference

log = structlog.get_logger("esops.trace")

LIMIT = 10_000
"""Events of a trace. A trace that reached the limit says so."""
_ANNOUNCED = 10_000
"""Events: a longer scan is announced before it starts."""
_AT_ONCE = 500
"""Ids in one search."""
_NO_LIMIT = 2**63


@dataclass
class Trace:
    """What was found about one correlation id, event or stream."""

    about: str
    forest: Forest = field(default_factory=Forest)
    how: list[str] = field(default_factory=list)
    """How each store was searched."""
    remedies: list[str] = field(default_factory=list)
    """Statements that would create an index where there was none."""
    limited: bool = False
    """Whether the search stopped at its limit of events."""


class Tracer:
    """Searches stores for the events of one trace.

    All searches raise Refused if they would scan more events than `scan_limit`.
    """

    def __init__(
        self,
        stores: Sequence[EventStore],
        keys: Keys = Keys(),  # noqa: B008 - frozen
        *,
        scan_limit: int = 1_000_000,
        limit: int = LIMIT,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`scan_limit`: how many events a search may read if no index helps.

        `limit`: how many events a trace may have. `say` is called before a long scan.
        """
        self._stores, self._keys, self._scan_limit, self._limit, self._say = (
            stores,
            keys,
            scan_limit,
            limit,
            say,
        )
        self._nodes: dict[tuple[str, str, int, str], Node] = {}
        self._searches: dict[str, Search] = {}
        self._trace = Trace("")

    def _search(self, store: EventStore) -> Search:
        """One search of each store for the whole trace: what reads all events does that once."""
        if store.name not in self._searches:
            found: Search = require(store, store.search, "search")
            # Only those of esops have it; a store of another package need not.
            once = getattr(found, "once", None)
            self._searches[store.name] = found if once is None else once()
        return self._searches[store.name]

    def correlation(self, value: str) -> Trace:
        """All events with a correlation id or W3C trace id, and the causes that they name."""
        trace = self._begin(f"correlation {value}")
        self._correlated([value])
        # An id without dashes may be a trace's. Where events show that it is none, an index of
        # correlation ids is enough.
        is_trace = trace_id(value) == value.lower()
        if is_trace and (not self._nodes or self._traces() & {value.lower()}):
            self._of_traces([value.lower()])
        if self._nodes:
            self._causes(generations=1)
        return self._end(trace)

    def event(self, identifier: str) -> Trace:
        """An event, its causes, and its effects."""
        trace = self._begin(f"event {identifier}")
        for store in self._stores:
            self._take(
                store,
                self._allowed(store, self._search(store).find(event_id=identifier)),
            )
        if not self._nodes:
            return self._end(trace)
        start = [each.id for each in self._nodes.values()]
        self._siblings()
        self._causes()
        self._effects(start)
        return self._end(trace, around=start)

    def stream(self, name: str) -> Trace:
        """A stream's events, their causes, and their effects."""
        trace = self._begin(f"stream {name}")
        for store in self._stores:
            self._take(store, store.read_stream(name))
        if not self._nodes:
            return self._end(trace)
        theirs = [each.id for each in self._nodes.values()]
        self._siblings()
        self._causes()
        self._effects(theirs)
        return self._end(trace, around=theirs)

    def neighbours(self, trace: Trace, around: timedelta) -> Iterator[Node]:
        """Other events of all stores that were recorded at about the same time.

        `around`: how long before the trace's first event and after its last.
        """
        # Nobody knows what was recorded about infinity.
        times = [
            each.recorded_at
            for each in trace.forest.nodes
            if isinstance(each.recorded_at, datetime)
        ]
        if not times:
            return
        low, high = within(min(times), -around), within(max(times), around)
        inside = {(each.store, each.id) for each in trace.forest.nodes}
        given = 0
        for store in self._stores:
            for each in _recorded_between(store, low, high, self._keys):
                if (each.store, each.id) not in inside:
                    given += 1
                    if given > self._limit:
                        trace.limited = True
                        return
                    yield each

    def _begin(self, about: str) -> Trace:
        self._nodes, self._searches = {}, {}
        self._trace = Trace(about)
        return self._trace

    def _end(self, trace: Trace, around: Sequence[str] = ()) -> Trace:
        forest = build(self._nodes.values())
        unresolved = [
            each for each, kind in zip(forest.nodes, forest.kinds, strict=True) if kind == "missing"
        ]
        known = self._stored_messages(unresolved)
        unresolved = [each for each in unresolved if each.cause_key not in known]
        known |= messages(self._stores, forest.nodes, unresolved, self._keys, self._exists)
        if known:
            forest = build(self._nodes.values(), known)
        # Events can share a correlation id without being causes or effects of each other. The trace
        # of one event or stream leaves such events out.
        if around:
            forest = build(connected(forest, set(around)), known)
        trace.forest = forest
        return trace

    def _stored_messages(self, unresolved: Sequence[Node]) -> set[str]:
        """The causes that a store keeps as messages beside its events."""
        ids = sorted({each.cause for each in unresolved if each.cause is not None})
        found: set[str] = set()
        for store in self._stores:
            # Only those of esops have it; a store of another package need not.
            not_events = getattr(self._search(store), "not_events", None)
            if not_events is not None:
                found |= {each for group in _groups(ids) for each in not_events(group)}
        return found

    def _exists(self, ids: Sequence[str]) -> bool:
        return any(
            True
            for store in self._stores
            for _ in self._allowed(store, self._search(store).find(event_id=ids))
        )

    def _allowed(self, store: EventStore, found: SearchResult) -> Iterable[object]:
        """The events of a search. Raises Refused if it is a scan of too many events."""
        how = f"{store.name}: {found.how}"
        if how not in self._trace.how:
            self._trace.how.append(how)
        if found.scans is not None:
            if found.remedy and found.remedy not in self._trace.remedies:
                self._trace.remedies.append(found.remedy)
            if found.scans > self._scan_limit:
                index = f", or create an index: {found.remedy}" if found.remedy else ""
                raise Refused(
                    f"store {store.name} has no index for this search, which would read about "
                    f"{found.scans:,} events",
                    hint=f"Allow the scan with --scan{index}",
                )
            if found.scans > _ANNOUNCED:
                self._say(f"{store.name}: {found.how}, about {found.scans:,} events")
        return found.events

    def _take(self, store: EventStore, events: Iterable[object]) -> list[Node]:
        """Add events to the trace, up to its limit; returns those that are new."""
        new = []
        for event in events:
            each = node(store.name, event, self._keys)  # type: ignore[arg-type] # of the store's own kind
            key = (each.store, each.stream, each.version, each.id)
            if key in self._nodes:
                continue  # found by an earlier search
            if len(self._nodes) >= self._limit:
                self._trace.limited = True
                break
            self._nodes[key] = each
            new.append(each)
        return new

    def _siblings(self) -> None:
        """Add everything with the correlation ids of the events so far, or in one trace with them.

        This one search finds the whole trace in most systems, so that the searches by generation
        that follow have nothing left to find.
        """
        traces = self._traces()
        self._of_traces(sorted(traces))
        known = {each.correlation_id for each in self._nodes.values() if each.correlation_id}
        if not self._keys.correlation:  # those were found with their traces
            known -= traces
        self._correlated(sorted(known))
        # A trace's first event has the trace's id as its correlation, and only others show that.
        self._of_traces(sorted((self._traces() - traces) & {one_writing(each) for each in known}))

    def _traces(self) -> set[str]:
        """The W3C traces by which events belong together that their causes do not connect."""
        return {
            each.trace
            for each in self._nodes.values()
            if each.trace is not None
            and (each.cause_span or each.names_correlation or each.correlation_id == each.trace)
        }

    def _correlated(self, values: Sequence[str]) -> None:
        for group in _groups(values):
            for store in self._stores:
                found = self._search(store).find(correlation_id=group, keys=self._keys.correlation)
                self._take(store, self._allowed(store, found))

    def _of_traces(self, traces: Sequence[str]) -> None:
        for group in _groups(traces):
            sought = SoughtIds("trace_id", tuple(group), self._keys.causation)
            for store in self._stores:
                found = search_for(self._search(store), sought)
                self._take(store, self._allowed(store, found))

    def _causes(self, generations: int | None = None) -> None:
        """Look for causes that are named and not found yet, generation by generation."""
        asked: set[str] = set()
        while generations is None or generations > 0:
            names = {name for each in self._nodes.values() for name in (each.key, each.reference)}
            named = {
                each.cause_key
                for each in self._nodes.values()
                if each.cause_key is not None and each.cause_span is None
            }
            unknown = named - names - asked
            if not unknown:
                return
            asked |= unknown
            new: list[Node] = []
            references = [parse_reference(name) for name in unknown]
            for store in self._stores:
                for stream, version in (each for each in references if each is not None):
                    found = store.read_stream(stream, version - 1, limit=1)
                    new += self._take(store, (event for event in found if event.version == version))
                for group in _groups(
                    sorted(name for name in unknown if parse_reference(name) is None)
                ):
                    new += self._take(
                        store,
                        self._allowed(store, self._search(store).find(event_id=group)),
                    )
            if not new:
                return
            generations = None if generations is None else generations - 1

    def _effects(self, start: Sequence[str]) -> None:
        """Look for events that name these as their cause, generation by generation; and for those
        that share a cause with them which is no event that was found.
        """
        ids = set(start)
        newest = [each for each in self._nodes.values() if each.id in ids]
        asked: set[str] = set()
        shared = self._unresolved(ids)
        while (newest or shared) and not self._trace.limited:
            causes = {each.key: each for each in newest if each.key not in asked}
            asked |= set(causes)
            newest = [
                each
                for each in self._nodes.values()
                if each.key not in asked and each.cause_key in causes
            ]
            for store in self._stores:
                found = self._effects_in(store, causes, shared)
                names = {name for each in causes.values() for name in (each.key, each.reference)}
                newest += [each for each in found if each.cause_key in names]
            shared = []

    def _effects_in(
        self, store: EventStore, causes: dict[str, Node], shared: Sequence[str]
    ) -> list[Node]:
        """The new events of a store that name one of these causes."""
        # message-db's events name their cause by stream and version. Its stream is what an index
        # can find; the caller compares the version.
        by_reference = self._keys.causation == () and any(
            each.cause and "/" in each.cause for each in self._nodes.values()
        )
        values = (
            sorted({each.stream for each in causes.values()})
            if by_reference
            else sorted({each.id for each in causes.values()} | set(shared))
        )
        keys = (CAUSATION_STREAM,) if by_reference else self._keys.causation
        new: list[Node] = []
        for group in _groups(values):
            found = self._search(store).find(causation_id=group, keys=keys)
            new += self._take(store, self._allowed(store, found))
        return new

    def _unresolved(self, ids: set[str]) -> list[str]:
        """The causes of these events, or of their causes, that are no event and no span."""
        forest = build(self._nodes.values())
        found: set[str] = set()
        for at, each in enumerate(forest.nodes):
            if each.id not in ids:
                continue
            top = top_of(forest, at)
            cause = forest.nodes[top].cause or ""
            if forest.kinds[top] == "missing" and parse_reference(cause) is None:
                found.add(cause)
        return sorted(found)


@contextmanager
def open_tracer(
    config: Config,
    stores: Sequence[str],
    *,
    scan: bool = False,
    limit: int = LIMIT,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Tracer]:
    """A tracer over stores of the configuration; `scan` allows scans of any length."""
    with ExitStack() as stack:
        opened = [stack.enter_context(open_store(name, config.stores[name])) for name in stores]
        yield Tracer(
            opened,
            Keys(config.trace.correlation, config.trace.causation),
            scan_limit=_NO_LIMIT if scan else config.trace.scan_limit,
            limit=limit,
            say=say,
        )


def _recorded_between(
    store: EventStore, low: datetime, high: datetime, keys: Keys
) -> Iterator[Node]:
    """The events that a store recorded between two times."""
    # No store has an index of times across streams: the streams that have grown since are read
    # from their ends.
    for info, _ in require(store, store.lengths, "lengths").grown(low, 0, EventFilter()):
        for event in store.read_stream(info.name, backwards=True):
            at = event.moment
            if at is None or at < low:
                break
            if at <= high:
                yield node(store.name, event, keys)


def _groups(values: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(values), _AT_ONCE):
        yield list(values[at : at + _AT_ONCE])
