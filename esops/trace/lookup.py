"""The events of a trace while it is searched: asks stores for causes and effects.

Stores are asked once for each generation of causes and effects, not once for each event. What a
store's event names is looked for in that store; another store's event is its cause only where its
own store has none, since stores can have the same ids and streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress

from esops.causality import one_writing
from esops.errors import Refused
from esops.stores.base import EventStore, Unsettled, require
from esops.stores.parts import Search, SearchResult
from esops.stores.scanning import ScannedSearch
from esops.stores.searching import SoughtIds, search_for
from esops.trace.graph import Key, Keys, Name, Node, node

ANNOUNCED = 10_000
"""Events: a longer scan is announced before it starts."""
_AT_ONCE = 500
"""Ids in one search."""
_SCANS = 5
"""Scans of one store: after these, its log is read once for all further searches."""


class Lookup:
    """The events that were found, and the searches for more.

    All searches raise Refused if they would scan more events than `scan_limit`.
    """

    def __init__(
        self,
        stores: Sequence[EventStore],
        keys: Keys,
        scan_limit: int,
        limit: int,
        say: Callable[[str], None],
    ) -> None:
        """See Tracer."""
        self.stores, self.keys = stores, keys
        self._scan_limit, self._limit, self._say = scan_limit, limit, say
        self.nodes: dict[Key, Node] = {}
        self.limited = False
        """Whether an event was left out for the limit."""
        self.left_out: set[tuple[str, Name]] = set()
        """Causes that a store has, and that the limit left out."""
        self.asked: set[tuple[str, Name]] = set()
        """Causes that a store was asked for."""
        self.how: list[str] = []
        self.remedies: list[str] = []
        names = {store.name for store in stores}
        self._homes = {
            store.name: of if (of := getattr(store, "of", "")) in names else store.name
            for store in stores
        }
        self._names: dict[str, set[Name]] = {name: set() for name in names}
        """What the events that were found are called by, for each store."""
        self._by_cause: dict[Name, list[Node]] = {}
        self._searches: dict[str, Search] = {}
        self._logs: dict[str, ScannedSearch] = {}
        self._scans: dict[str, int] = {}

    def home(self, store: EventStore) -> str:
        """The store that has the events: an archive's are those of the store that it is of, where
        that is searched, too. Either may have a copy of the other's events.
        """
        return self._homes[store.name]

    def search(self, store: EventStore) -> Search:
        """One search of each store for the whole trace: what reads all events does that once."""
        if store.name not in self._searches:
            found: Search = require(store, store.search, "search")
            # Only those of esops have it; a store of another package need not.
            once = getattr(found, "once", None)
            self._searches[store.name] = found if once is None else once()
        return self._searches[store.name]

    def events(self, store: EventStore, sought: SoughtIds) -> Iterable[object]:
        """The events with some ids. Raises Refused if it is a scan of too many events."""
        found = search_for(self.search(store), sought)
        how = f"{store.name}: {found.how}"
        new = how not in self.how
        if new:
            self.how.append(how)
        if found.scans is None:
            return found.events
        if found.remedy and found.scans > ANNOUNCED and found.remedy not in self.remedies:
            self.remedies.append(found.remedy)
        if found.scans > self._scan_limit:
            index = f", or create an index: {found.remedy}" if found.remedy else ""
            raise Refused(
                f"store {store.name} has no index for this search, which would read about "
                f"{found.scans:,} events",
                hint=f"Allow the scan with --scan{index}",
            )
        if found.scans > ANNOUNCED and new:
            self._say(f"{store.name}: {found.how}, about {found.scans:,} events")
        return self._read_once(store, sought, found)

    def _read_once(
        self, store: EventStore, sought: SoughtIds, found: SearchResult
    ) -> Iterable[object]:
        """A scan's events: a chain of causes without an index costs a scan for each link, unless
        the log is read once for all of them.
        """
        self._scans[store.name] = self._scans.get(store.name, 0) + 1
        if self._scans[store.name] > _SCANS and not isinstance(self.search(store), ScannedSearch):
            with suppress(Unsettled):  # a scan by the store finds what has not settled, too
                log = self._logs.get(store.name)
                log = self._logs[store.name] = log or ScannedSearch(store).once()
                return list(log.find_ids(sought).events)
        return found.events

    def take(
        self,
        store: EventStore,
        events: Iterable[object],
        wanted: Callable[[Node], bool] = lambda _: True,
        *,
        causes: bool = False,
    ) -> list[Node]:
        """Add the wanted events to the trace, up to its limit; returns those that are new.

        `causes`: whether they are causes that were asked for; it is noted which of them the limit
        leaves out.
        """
        new = []
        for event in events:
            each = node(self.home(store), event, self.keys)  # type: ignore[arg-type] # of the store's own kind
            if each.identity in self.nodes or not wanted(each):
                continue
            if len(self.nodes) >= self._limit:
                self.limited = True
                if not causes:
                    break
                self.left_out.update((each.store, name) for name in each.names)
                continue
            self._add(each)
            new.append(each)
        return new

    def _add(self, each: Node) -> None:
        self.nodes[each.identity] = each
        self._names[each.store].update(each.names)
        if each.cause_key is not None:
            self._by_cause.setdefault(each.cause_key, []).append(each)

    def begin_again(self, start: Iterable[Node]) -> None:
        """Forget all events but these."""
        self.limited = False
        for known in (self.nodes, self.asked, self.left_out, self._by_cause):
            known.clear()
        self._names = {store.name: set() for store in self.stores}
        for each in start:
            self._add(each)

    def correlated(self, values: Sequence[str]) -> None:
        """Add everything with these correlation ids."""
        for group in _groups(values):
            sought = SoughtIds("correlation_id", tuple(group), self.keys.correlation)
            for store in self.stores:
                self.take(store, self.events(store, sought))

    def of_traces(self, traces: Sequence[str]) -> None:
        """Add everything in these W3C traces."""
        for group in _groups(traces):
            sought = SoughtIds("trace_id", tuple(group), self.keys.causation)
            for store in self.stores:
                self.take(store, self.events(store, sought))

    def causes(self, generations: int | None = None) -> None:
        """Look for causes that are named and not found yet, generation by generation."""
        newest = list(self.nodes.values())
        while newest and (generations is None or generations > 0):
            generations = None if generations is None else generations - 1
            found: list[Node] = []
            for store in self.stores:
                found += self._named(store, self._unresolved(newest, self.home(store)))
            for other in self.stores:
                for store in self.stores:
                    if self.home(other) != self.home(store):
                        names = self._unresolved(newest, self.home(store))
                        found += self._named(other, names - self._anywhere(names))
            newest = found

    def _unresolved(self, newest: Iterable[Node], store: str) -> set[Name]:
        """The causes that a store's events name, and that it is not known to have."""
        return {
            each.cause_key
            for each in newest
            if each.store == store
            and each.cause_key is not None
            and each.cause_span is None
            and each.cause_key not in self._names[store]
            and (store, each.cause_key) not in self.left_out
        }

    def _anywhere(self, names: set[Name]) -> set[Name]:
        return {name for name in names if any(name in theirs for theirs in self._names.values())}

    def _named(self, store: EventStore, names: Iterable[Name]) -> list[Node]:
        """Add the events that a store has by these names, each of which it is asked for once."""
        new: list[Node] = []
        unknown = {
            name
            for name in names
            if name not in self._names[self.home(store)] and (store.name, name) not in self.asked
        }
        self.asked.update((store.name, name) for name in unknown)
        for stream, version in sorted(name for name in unknown if not isinstance(name, str)):
            read = store.read_stream(stream, version - 1, limit=1)
            one = (event for event in read if event.version == version)
            new += self.take(store, one, causes=True)
        try:
            for group in _groups(sorted(name for name in unknown if isinstance(name, str))):
                found = self.events(store, SoughtIds("event_id", tuple(group), ()))
                new += self.take(store, found, causes=True)
        except Refused:
            self.asked.difference_update((store.name, name) for name in unknown)
            raise
        return new

    def effects(self, start: Iterable[Node], shared: Iterable[Name] = ()) -> None:
        """Look for events that name these as their cause, generation by generation; and for those
        that name one of `shared`.
        """
        newest, done, sharing = list(start), set[Key](), set(shared)
        while (newest or sharing) and not self.limited:
            done.update(each.identity for each in newest)
            own = {(each.store, name) for each in newest for name in each.names}
            names = {name for _, name in own}
            for store in self.stores:
                self._effects_in(store, newest, own, names, sharing)
            newest = [
                each
                for name in names
                for each in self._by_cause.get(name, ())
                if each.identity not in done and self._is_effect(each, own)
            ]
            newest = list({each.identity: each for each in newest}.values())
            sharing = set()

    def _is_effect(self, each: Node, own: set[tuple[str, Name]]) -> bool:
        """Whether an event that names one of these is its effect: its own store's event is its
        cause rather than another's.
        """
        name = each.cause_key
        if name is None:
            return False
        its_own = name in self._names[each.store] or (each.store, name) in self.left_out
        return (each.store, name) in own or not its_own

    def _effects_in(
        self,
        store: EventStore,
        newest: Sequence[Node],
        own: set[tuple[str, Name]],
        names: set[Name],
        sharing: set[Name],
    ) -> None:
        """Add the events of a store that name one of these causes."""
        # message-db's events name their cause by stream and version. Its stream is what an index
        # can find; the version is compared here.
        values = {each.id for each in newest} | {each.stream for each in newest}
        values |= {name for name in sharing if isinstance(name, str)}
        wanted = names | sharing
        for group in _groups(sorted(values)):
            sought = SoughtIds("causation_id", tuple(group), self.keys.causation)
            others: set[Name] = set()

            def mine(each: Node, others: set[Name] = others) -> bool:
                name = each.cause_key
                if name is None or name not in wanted:
                    return False
                if (self.home(store), name) in own or name in sharing:
                    return True
                others.add(name)
                return False

            self.take(store, self.events(store, sought), mine)
            if others:
                # They name events of other stores, unless their own store has such events.
                self._named(store, others)

                def foreign(each: Node, others: set[Name] = others) -> bool:
                    return each.cause_key in others and self._is_effect(each, own)

                self.take(store, self.events(store, sought), foreign)

    def messages(self, ids: Sequence[str]) -> set[str]:
        """Of some ids, those that a store keeps as messages beside its events."""
        found: set[str] = set()
        for store in self.stores:
            # Only those of esops have it; a store of another package need not.
            not_events = getattr(self.search(store), "not_events", None)
            if not_events is not None:
                found |= {one_writing(each) for group in _groups(ids) for each in not_events(group)}
        return found

    def exists(self, ids: Sequence[str]) -> bool:
        """Whether any event has one of these ids; False where that would be too long a scan."""
        with suppress(Refused):
            sought = SoughtIds("event_id", tuple(ids), ())
            return any(True for store in self.stores for _ in self.events(store, sought))
        return False


def _groups(values: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(values), _AT_ONCE):
        yield list(values[at : at + _AT_ONCE])
