"""The events that belong to a trace, asked for in as few questions as there are generations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from esops.errors import Refused
from esops.events import CAUSATION_STREAM, EventFilter
from esops.stores.base import EventStore, require
from esops.stores.parts import Search, SearchResult
from esops.trace.graph import Forest, Keys, Node, build, node

log = structlog.get_logger("esops.trace")

LIMIT = 10_000
"""Events of a trace at most; that it was reached is said."""
_AT_ONCE = 500


@dataclass
class Trace:
    """What was found."""

    about: str
    forest: Forest = field(default_factory=Forest)
    how: list[str] = field(default_factory=list)
    """How each store was searched."""
    remedies: list[str] = field(default_factory=list)
    """What would make an index, where there was none."""
    limited: bool = False


class Tracer:
    """Searches stores for the events of one trace.

    Raises Refused where that takes a scan that nobody asked for.
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
        """`scan_limit`: how many events may be looked at where no index answers."""
        self._stores, self._keys, self._scan_limit, self._limit, self._say = (
            stores,
            keys,
            scan_limit,
            limit,
            say,
        )
        self._nodes: dict[tuple[str, str, int, str], Node] = {}
        self._trace = Trace("")

    def correlation(self, value: str) -> Trace:
        """All events with a correlation id (or of a W3C trace), and the causes that they name."""
        trace = self._begin(f"correlation {value}")
        for store in self._stores:
            self._take(
                store,
                self._asked(
                    store,
                    _search(store).find(correlation_id=value, keys=self._keys.correlation),
                ),
            )
        if self._nodes:
            self._causes(generations=1)
        return self._end(trace)

    def event(self, identifier: str) -> Trace:
        """An event, what led to it, and what came of it."""
        trace = self._begin(f"event {identifier}")
        for store in self._stores:
            self._take(
                store,
                self._asked(store, _search(store).find(event_id=identifier)),
            )
        if not self._nodes:
            return self._end(trace)
        start = [each.id for each in self._nodes.values()]
        self._of_same_correlation()
        self._causes()
        self._effects(start)
        return self._end(trace, around=start)

    def stream(self, name: str) -> Trace:
        """A stream's events, what led to them, and what came of them."""
        trace = self._begin(f"stream {name}")
        for store in self._stores:
            self._take(store, store.read_stream(name))
        if not self._nodes:
            return self._end(trace)
        theirs = [each.id for each in self._nodes.values()]
        self._of_same_correlation()
        self._causes()
        self._effects(theirs)
        return self._end(trace, around=theirs)

    def neighbours(self, trace: Trace, around: timedelta) -> Iterator[Node]:
        """The events of all stores from so long before the trace's first to so long after its last,
        that are not in it.
        """
        times = [each.recorded_at for each in trace.forest.nodes if each.recorded_at is not None]
        if not times:
            return
        low, high = min(times) - around, max(times) + around
        inside = {(each.store, each.id) for each in trace.forest.nodes}
        given = 0
        for store in self._stores:
            for each in _between(store, low, high, self._keys):
                if (each.store, each.id) not in inside:
                    given += 1
                    if given > self._limit:
                        trace.limited = True
                        return
                    yield each

    # -- how

    def _begin(self, about: str) -> Trace:
        self._nodes = {}
        self._trace = Trace(about)
        return self._trace

    def _end(self, trace: Trace, around: Sequence[str] = ()) -> Trace:
        forest = build(self._nodes.values())
        if around:
            forest = build(_connected(forest, set(around)))
        trace.forest = forest
        return trace

    def _asked(self, store: EventStore, found: SearchResult) -> Iterable[object]:
        """The events of a search, if it may be made."""
        how = f"{store.name}: {found.how}"
        if how not in self._trace.how:
            self._trace.how.append(how)
        if found.scans is not None:
            if found.remedy and found.remedy not in self._trace.remedies:
                self._trace.remedies.append(found.remedy)
            if found.scans > self._scan_limit:
                hint = (
                    f"Go on all the same with --scan. An index makes it quick: {found.remedy}"
                    if found.remedy
                    else "Go on with --scan."
                )
                raise Refused(
                    f"store {store.name} has no index for this: it would look at about "
                    f"{found.scans:,} events",
                    hint=hint,
                )
            if found.scans > 10_000:
                self._say(f"{store.name}: {found.how}, about {found.scans:,} events")
        return found.events

    def _take(self, store: EventStore, events: Iterable[object]) -> list[Node]:
        new = []
        for event in events:
            each = node(store.name, event, self._keys)  # type: ignore[arg-type] # of the store's own kind
            key = (each.store, each.stream, each.version, each.id)
            if key in self._nodes:
                continue
            if len(self._nodes) >= self._limit:
                self._trace.limited = True
                break
            self._nodes[key] = each
            new.append(each)
        return new

    def _of_same_correlation(self) -> None:
        """One question that most often brings all there is: what shares the correlation ids of what
        was found.
        """
        known = sorted(
            {
                each.correlation_id
                for each in self._nodes.values()
                if each.correlation_id is not None
            }
        )
        for group in _groups(known):
            for store in self._stores:
                self._take(
                    store,
                    self._asked(
                        store,
                        _search(store).find(correlation_id=group, keys=self._keys.correlation),
                    ),
                )

    def _causes(self, generations: int | None = None) -> None:
        """Look for the causes that are named and not there, generation by generation."""
        asked: set[str] = set()
        while generations is None or generations > 0:
            names = {name for each in self._nodes.values() for name in (each.id, each.reference)}
            wanted = (
                {each.cause for each in self._nodes.values() if each.cause is not None}
                - names
                - asked
            )
            if not wanted:
                return
            asked |= wanted
            new: list[Node] = []
            for store in self._stores:
                references = [_parse_reference(name) for name in wanted]
                for stream, version in (
                    reference for reference in references if reference is not None
                ):
                    found = store.read_stream(stream, version - 1, limit=1)
                    new += self._take(store, (event for event in found if event.version == version))
                for group in _groups(
                    sorted(name for name in wanted if _parse_reference(name) is None)
                ):
                    new += self._take(
                        store,
                        self._asked(store, _search(store).find(event_id=group)),
                    )
            if not new:
                return
            generations = None if generations is None else generations - 1

    def _effects(self, start: Sequence[str]) -> None:
        """Look for what names these as its cause, generation by generation."""
        ids = set(start)
        newest = [each for each in self._nodes.values() if each.id in ids]
        asked: set[str] = set()
        while newest and not self._trace.limited:
            wanted = {each.id: each for each in newest if each.id not in asked}
            asked |= set(wanted)
            newest = [
                each
                for each in self._nodes.values()
                if each.id not in asked and each.cause in wanted
            ]
            streams = {each.stream for each in wanted.values()}
            for store in self._stores:
                by_reference = self._keys.causation == () and any(
                    each.cause and "/" in each.cause for each in self._nodes.values()
                )
                values = sorted(streams) if by_reference else sorted(wanted)
                keys = (CAUSATION_STREAM,) if by_reference else self._keys.causation
                for group in _groups(values):
                    found = self._take(
                        store,
                        self._asked(
                            store,
                            _search(store).find(causation_id=group, keys=keys),
                        ),
                    )
                    names = {name for each in wanted.values() for name in (each.id, each.reference)}
                    newest += [each for each in found if each.cause in names]


def _connected(forest: Forest, around: set[str]) -> Iterator[Node]:
    """The events that some lead to or come from: their causes up to the root, and all effects below
    them.
    """
    keep: set[int] = set()
    for at, each in enumerate(forest.nodes):
        if each.id not in around:
            continue
        up: int | None = at
        while up is not None:
            keep.add(up)
            up = forest.parent[up]
        below = [at]
        while below:
            down = below.pop()
            keep.add(down)
            below += forest.children[down]
    return (forest.nodes[at] for at in sorted(keep))


def _between(store: EventStore, low: datetime, high: datetime, keys: Keys) -> Iterator[Node]:
    for info, _ in require(store, store.lengths, "lengths").grown(low, 0, EventFilter()):
        for event in store.read_stream(info.name, backwards=True):
            if event.recorded_at < low:
                break
            if event.recorded_at <= high:
                yield node(store.name, event, keys)


def _parse_reference(name: str) -> tuple[str, int] | None:
    stream, _, version = name.rpartition("/")
    return (stream, int(version)) if stream and version.isdigit() else None


def _groups(values: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(values), _AT_ONCE):
        yield list(values[at : at + _AT_ONCE])


def _search(store: EventStore) -> Search:
    return require(store, store.search, "search")
