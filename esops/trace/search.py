"""Finds the events that belong to a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from esops.causality import may_be_trace, parse_traceparent, trace_id
from esops.config import Config
from esops.errors import Refused
from esops.events import EventFilter
from esops.moments import within
from esops.stores.base import EventStore, require
from esops.stores.one_tenant import open_for
from esops.stores.searching import SoughtIds
from esops.trace.graph import Forest, Keys, Name, Node, build, node
from esops.trace.lookup import Lookup
from esops.trace.messages import judge
from esops.trace.related import connected, tops

LIMIT = 10_000
"""Events of a trace. A trace that reached the limit says so."""
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
    limit: int = LIMIT
    """That limit."""
    neighbours_limited: bool = False
    """Whether the list of neighbours stopped at the limit."""
    not_searched: list[str] = field(default_factory=list)
    """What was not looked for, and why, since no index helps and a scan would be too long."""


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
        self._lookup = Lookup(stores, keys, scan_limit, limit, say)
        self._trace = Trace("")

    def correlation(self, value: str) -> Trace:
        """All events with a correlation id or W3C trace id, and the causes that they name."""
        self._begin(f"correlation {value}")
        lookup = self._lookup
        lookup.correlated([value])
        span = parse_traceparent(value)
        sought = trace_id(value) if span is None else span.trace
        evident = not lookup.nodes or sought in {each.trace for each in lookup.nodes.values()}
        # As it was asked for, or as the events have it.
        writings = (value, *(it.correlation_id or "" for it in lookup.nodes.values()))
        if sought is not None and (evident or any(map(may_be_trace, writings))):
            self._of_traces({sought}, evident=evident)
        try:
            lookup.causes(generations=1)
        except Refused as refused:
            self._not_searched("the causes of these events", refused)
        return self._end()

    def event(self, identifier: str) -> Trace:
        """An event, its causes, and its effects."""
        self._begin(f"event {identifier}")
        sought = SoughtIds("event_id", (identifier,), ())
        for store in self._stores:
            self._lookup.take(store, self._lookup.events(store, sought))
        return self._around(list(self._lookup.nodes.values()))

    def stream(self, name: str) -> Trace:
        """A stream's events, their causes, and their effects."""
        self._begin(f"stream {name}")
        for store in self._stores:
            self._lookup.take(store, store.read_stream(name))
        return self._around(list(self._lookup.nodes.values()))

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
        inside = {each.identity for each in trace.forest.nodes}
        given = 0
        for store in self._stores:
            for each in _recorded_between(store, self._lookup.home(store), low, high, self._keys):
                if each.identity not in inside:
                    inside.add(each.identity)
                    given += 1
                    if given > self._limit:
                        trace.neighbours_limited = True
                        return
                    yield each

    def _begin(self, about: str) -> None:
        self._lookup = Lookup(self._stores, self._keys, self._scan_limit, self._limit, self._say)
        self._trace = Trace(about, limit=self._limit)

    def _around(self, start: list[Node]) -> Trace:
        """The trace of some events."""
        lookup = self._lookup
        if not start:
            return self._end()
        # This one search finds the whole trace in most systems, so that the searches by generation
        # that follow have nothing left to find.
        lookup.correlated(sorted({it.correlation_id for it in start if it.correlation_id}))
        if lookup.limited and len(start) < self._limit:
            # Its causes and effects are more to the point than all of its correlation.
            lookup.begin_again(start)
            lookup.causes()
            lookup.effects(start)
        lookup.causes()
        evident, perhaps = self._traces(start)
        self._of_traces(evident, evident=True)
        self._of_traces(perhaps - evident, evident=False)
        lookup.causes()
        lookup.effects(start, self._shared(start))
        lookup.causes()
        return self._end(start)

    def _end(self, around: Sequence[Node] = ()) -> Trace:
        lookup, trace = self._lookup, self._trace
        nodes = lookup.nodes.values()
        judged = judge(lookup, build(nodes))
        forest = build(nodes, judged)
        # Events can share a correlation id without being causes or effects of each other. The trace
        # of one event or stream leaves such events out.
        if around:
            forest = build(connected(forest, {each.identity for each in around}), judged)
        trace.forest, trace.limited = forest, lookup.limited
        trace.how, trace.remedies = lookup.how, lookup.remedies
        return trace

    def _roots(self, start: Sequence[Node]) -> Iterator[tuple[Forest, int]]:
        """The roots that some events come from, as far as their causes were found."""
        forest = build(self._lookup.nodes.values())
        top, wanted = tops(forest), {each.identity for each in start}
        roots = {top[at] for at, each in enumerate(forest.nodes) if each.identity in wanted}
        return ((forest, at) for at in sorted(roots))

    def _traces(self, start: Sequence[Node]) -> tuple[set[str], set[str]]:
        """The W3C traces of what some events come from, and ids that may be such traces."""
        roots = [forest.nodes[at] for forest, at in self._roots(start)]
        evident = {each.trace for each in roots if each.trace is not None}
        perhaps = {may_be_trace(each.correlation_id or "") for each in roots if not each.trace}
        return evident, {each for each in perhaps if each is not None}

    def _shared(self, start: Sequence[Node]) -> set[Name]:
        """What some events come from that is no event and no span."""
        return {
            name
            for forest, at in self._roots(start)
            if forest.kinds[at] in ("missing", "unknown")
            and isinstance(name := forest.nodes[at].cause_key, str)
        }

    def _of_traces(self, traces: set[str], *, evident: bool) -> None:
        """Look for events of these traces. Where nothing says that the ids are traces' ids, and
        that would be too long a scan, the trace says so; it is no reason to show nothing.
        """
        try:
            self._lookup.of_traces(sorted(traces))
        except Refused as refused:
            if evident:
                raise
            ids = ", ".join(sorted(traces))
            self._not_searched(f"events that have {ids} as their W3C trace", refused)

    def _not_searched(self, what: str, refused: Refused) -> None:
        self._trace.not_searched.append(f"{what}, since {refused.message}. {refused.hint}")


@contextmanager
def open_tracer(
    config: Config,
    stores: Sequence[str],
    *,
    scan: bool = False,
    limit: int = LIMIT,
    tenant: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Tracer]:
    """A tracer over stores of the configuration, or over what a tenant has in them; `scan` allows
    scans of any length.
    """
    with ExitStack() as stack:
        opened = [
            stack.enter_context(open_for(name, config.stores[name], tenant)) for name in stores
        ]
        yield Tracer(
            opened,
            Keys(config.trace.correlation, config.trace.causation),
            scan_limit=_NO_LIMIT if scan else config.trace.scan_limit,
            limit=limit,
            say=say,
        )


def _recorded_between(
    store: EventStore, home: str, low: datetime, high: datetime, keys: Keys
) -> Iterator[Node]:
    """The events that a store recorded between two times."""
    # No store has an index of times across streams: the streams that have grown since are read
    # from their ends.
    for info, _ in require(store, store.lengths, "lengths").grown(low, 0, EventFilter()):
        for event in store.read_stream(info.name, backwards=True):
            if event.tenant != info.tenant:
                continue  # of another tenant's stream of that name, which has a turn of its own
            at = event.moment
            if at is None or at < low:
                break
            if at <= high:
                yield node(home, event, keys)
