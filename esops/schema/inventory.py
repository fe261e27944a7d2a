"""Which versions and shapes each type of event has: how many events, when, how large, and in how
many streams that are still open.

One pass over the events. Memory holds something for each shape, and the newest streams
(open_streams.py). For each event there is a look-up of its stream, and one of its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from esops.errors import NothingFound, nearest
from esops.events import Position, RecordedEvent, StreamKey
from esops.json_paths import Steps
from esops.moments import INFINITY, Moment, moment
from esops.schema.closing import ClosingRule
from esops.schema.columns import LookedAt, looked_at, stream_key
from esops.schema.mapped_shapes import MappedShapes
from esops.schema.open_streams import OPEN, OpenStreams, StreamState
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.schema.shapes import MOST_NAMES, Fields, Shapes, ShapeVariant
from esops.schema.text_patterns import TextPatterns
from esops.schema.type_inventory import Occurrence, TypeInventory, TypeVersion
from esops.schema.versions import CLASS_VERSION, MARK, class_version, version_in, versioned
from esops.stores.base import EventStore, Unsettled

_WINDOW = timedelta(days=30)
SHORTEST = timedelta(hours=1)
"""A store with less history than this tells no rate."""
_DAY = 86_400_000_000
_METADATA = 2_000
"""Metadata whose version is held in memory: in some stores many events have the same."""
_CLASS_VERSIONS: Fields = frozenset(((CLASS_VERSION,), each) for each in ("integer", "string"))
_data_of = attrgetter("data")
KnownMaps = Mapping[tuple[str, str | None], Collection[Steps]]
"""By type and category: the paths of objects that are maps by names which are data."""
Watch = Callable[[TypeInventory, ShapeVariant, RecordedEvent], None]
"""Is given each event with its shape, in order."""


@dataclass
class Inventory:
    """What a read of the events found."""

    store: str
    rule: ClosingRule
    types: dict[tuple[str, str | None], TypeInventory] = field(default_factory=dict)
    position: Position | None = None
    """Up to which the events were read."""
    short: Unsettled | None = None
    """Why some events could not be read; None if all were."""
    window: timedelta | None = None
    """The time up to the newest event over which streams were counted as closed lately: 30 days,
    or since the first event; None where no event has a time.
    """
    newest_at: Moment | None = None

    @property
    def events(self) -> int:
        """How many were looked at."""
        return sum(each.events for each in self.types.values())

    def ordered(self) -> list[TypeInventory]:
        """The types by category and name."""
        return sorted(self.types.values(), key=lambda each: (each.category or "", each.base))

    def last_closes_in(self, type_: TypeInventory, version: TypeVersion) -> float | None:
        """In how many days the last open stream with a version that is not written any more closes
        at the present rate; None where that version is still written, or nothing closes.
        """
        if (
            self.window is None
            or self.window < SHORTEST
            or not version.open_streams
            or not version.closed_since
            or not type_.superseded(version)
        ):
            return None
        days = self.window / timedelta(days=1)
        return version.open_streams / (version.closed_since / days)


class _Cell:
    """One stored type in one category, and the versions of the payloads that it had."""

    __slots__ = ("closes", "explicit", "known", "patterns", "stored", "type")

    def __init__(
        self, type_: TypeInventory | None, stored: str, shapes: Shapes, *, closes: bool
    ) -> None:
        """`type_`: None where the type is not wanted, so that only its end of a stream counts."""
        self.type, self.stored, self.closes = type_, stored, closes
        self.patterns = TextPatterns(shapes)
        self.explicit = versioned(stored).version
        self.known: dict[Any, TypeVersion] = {}
        """By variant; by variant and version where the metadata or the payload has one."""


class _Cells(dict[str, _Cell]):
    """Those of a category by stored type, made as they are asked for."""

    def __init__(
        self,
        found: Inventory,
        category: str | None,
        wanted: Callable[[str], bool] | None,
        shapes: Shapes,
        maps: KnownMaps,
    ) -> None:
        super().__init__()
        self._maps = maps
        self._found, self._category, self._wanted = found, category, wanted
        self._shapes = shapes

    def __missing__(self, stored: str) -> _Cell:
        type_: TypeInventory | None = None
        if self._wanted is None or self._wanted(stored):
            key = (versioned(stored).base, self._category)
            type_ = self._found.types.get(key)
            if type_ is None:
                type_ = self._found.types[key] = TypeInventory(*key, self._maps.get(key, ()))
        closes = self._found.rule.closes(stored, self._category)
        shapes = self._shapes
        if type_ is not None and type_.names.maps:
            shapes = MappedShapes(type_.names.maps)
        made = self[stored] = _Cell(type_, stored, shapes, closes=closes)
        return made


class InventoryReader:
    """Reads the events of a store into an inventory, once."""

    def __init__(
        self,
        store: EventStore,
        rule: ClosingRule,
        *,
        by_day: bool = False,
        watch: Watch | None = None,
        wanted: Callable[[str], bool] | None = None,
        in_memory: int | None = None,
        maps: KnownMaps = MappingProxyType({}),
    ) -> None:
        """`by_day`: count the events of each day. `wanted`: which stored types are looked at; None:
        all. `in_memory`: how many streams are in memory at once. `maps`: those known before.
        """
        self._maps = maps
        self._store, self._watch, self._wanted, self._by_day = store, watch, wanted, by_day
        self._shapes = Shapes()
        self._first: dict[StreamKey, int | None] = {}
        self._paths = 0
        """In all variants that are looked up in the cells."""
        self._versions: list[TypeVersion] = []
        """By the number of their bits."""
        self._counted_as: dict[int, int] = {}
        """The numbers of versions that are counted with others by now."""
        self._cells: dict[str | None, _Cells] = {}
        self._named: dict[bytes, str | None] = {}
        self._tenants = store.capabilities.tenants or store.capabilities.named_tenants
        self._streams = OpenStreams() if in_memory is None else OpenStreams(in_memory)
        self._found = Inventory(store.name, rule)

    def read(
        self,
        selection: EventSelection,
        progress: Progress = lambda *_: None,
        after_batch: Callable[[], None] = lambda: None,
    ) -> Inventory:
        """Read all selected events. Raises as SchemaReader does, and NothingFound where no event is
        of a type that was given as one that closes streams; where some cannot be read yet, the
        inventory is of the others, and its `short` says why.
        """
        self._first = self._store.archived.first_readable()
        reader = SchemaReader(self._store, selection, progress)
        with self._streams:
            for events in reader.batches():
                at = looked_at(events, tenants=self._tenants)
                self._learn(at.streams)
                self._add(events, at, self._streams.held)
                after_batch()
            self._found.position, self._found.short = reader.position, reader.short
            self._check_closing()
            self._found.types = {
                key: each for key, each in self._found.types.items() if each.versions
            }
            self._count()
        return self._found

    def _check_closing(self) -> None:
        """Whether there is an event of each type that was named as one that closes streams."""
        stored = {each for cells in self._cells.values() for each in cells}
        known = stored | {versioned(each).base for each in stored}
        for name in self._found.rule.given:
            if known and name not in known and self._found.short is None:
                raise NothingFound(
                    f"--closed-by: no event of type {name!r} was read",
                    hint=nearest(name, sorted(known)),
                )

    def _learn(self, names: Sequence[Any]) -> None:
        """Have a state in memory for each of some streams."""
        held = self._streams.held
        new = set(names) - held.keys()
        if not new:
            return
        if self._streams.make_room(stream_key):
            new = set(names)
        keys = {stream_key(name): name for name in new}
        for key, category in self._store.many_streams.categories_of(keys).items():
            cells = self._cells.get(category)
            if cells is None:
                cells = self._cells[category] = _Cells(
                    self._found, category, self._wanted, self._shapes, self._maps
                )
            state = held[keys[key]] = StreamState(cells)
            state.first = self._first.get(key) or 0

    def _add(
        self, events: Sequence[RecordedEvent], columns: LookedAt, held: Mapping[Any, StreamState]
    ) -> None:
        watch, times, closing = self._watch, columns.times, self._found.rule.any
        row = -1
        for event, name, meta in zip(events, columns.streams, columns.metadata, strict=True):
            row += 1
            state = held[name]
            cell = state.place[event.type]
            if closing:
                if cell.closes:
                    state.close(times[row])
                else:
                    state.closed = OPEN
            type_ = cell.type
            if type_ is None:
                continue
            data, patterns = event.data, cell.patterns
            match, variant = patterns.best
            if match(data) and data.isascii():
                patterns.hits += 1
            else:
                variant = patterns.of(data)
            if MARK in meta and cell.explicit is None:
                version = self._marked(cell, variant, event, meta)
            else:
                known = cell.known.get(variant)
                version = known or self._version(cell, variant, event, cell.explicit)
            if version is not type_.current:
                type_.turn(version)
            version.events += 1
            version.rows.append(row)
            bit = version.bit
            if not state.shapes & bit and event.version >= state.first:
                state.shapes |= bit
            if watch is not None:
                watch(type_, variant, event)
        self._sum_up(events, columns.times)

    def _sum_up(self, events: Sequence[RecordedEvent], times: Sequence[int | None]) -> None:
        """What a batch adds to its versions beside the number of events."""
        sizes = list(map(len, map(_data_of, events)))
        for version in self._versions:
            rows = version.rows
            if not rows:
                continue
            version.rows = []
            version.bytes += sum(map(sizes.__getitem__, rows))
            version.last = Occurrence.of(events[rows[-1]], tenants=self._tenants)
            known = [at for row in rows if (at := times[row]) is not None]
            if not known:
                continue
            version.low = min(known if version.low is None else [version.low, *known])
            version.high = max(known if version.high is None else [version.high, *known])
            if self._by_day:
                version.days.update(at // _DAY for at in known)

    def _marked(
        self, cell: _Cell, variant: ShapeVariant, event: RecordedEvent, meta: bytes
    ) -> TypeVersion:
        """The version of an event whose metadata may name one."""
        named = self._named
        if meta in named:
            explicit = named[meta]
        else:
            if len(named) >= _METADATA:
                named.clear()
            explicit = named[meta] = version_in(meta)
        known = cell.known.get(variant if explicit is None else (variant, explicit))
        return known or self._version(cell, variant, event, explicit)

    def _version(
        self, cell: _Cell, variant: ShapeVariant, event: RecordedEvent, explicit: str | None
    ) -> TypeVersion:
        """The version that an event of a variant which was not looked up before is counted with."""
        key: Any = variant
        if explicit is not None and cell.explicit is None:
            key = (variant, explicit)
        elif explicit is None and not variant.fields.isdisjoint(_CLASS_VERSIONS):
            explicit = class_version(event.data)
            key = (variant, explicit)
        found = cell.known.get(key)
        if found is None:
            found = self._counted(cell, variant, event, explicit)
            self._paths += len(variant.fields)
            if self._paths > MOST_NAMES:
                self._paths = 0
                for cells in self._cells.values():
                    for other in cells.values():
                        other.known.clear()
            cell.known[key] = found
        return found

    def _counted(
        self, cell: _Cell, variant: ShapeVariant, event: RecordedEvent, explicit: str | None
    ) -> TypeVersion:
        type_ = cell.type
        assert type_ is not None
        shape = type_.names.shape(variant.shape)
        found = type_.versions.get((cell.stored, explicit, shape.hash))
        if found is not None:
            return found
        number = len(self._versions)
        first = Occurrence.of(event)
        made = TypeVersion(number, cell.stored, explicit, shape, first)
        self._versions.append(made)
        type_.versions[made.key] = made
        moved = type_.gathered(made)
        if not moved:
            return made
        self._counted_as.update(
            (each.number, target.number) for each, target in moved.items() if each is not target
        )
        shapes = MappedShapes(type_.names.maps) if type_.names.maps else self._shapes
        for cells in self._cells.values():
            for other in cells.values():
                if other.type is type_:
                    other.known.clear()
                    # Names that are known to be data are not looked up any more.
                    other.patterns = TextPatterns(shapes)
        return moved[made]

    def _count(self) -> None:
        """Count the streams of each version."""
        found = self._found
        times = [
            (version.low, version.high)
            for type_ in found.types.values()
            for version in type_.versions.values()
            if version.low is not None and version.high is not None
        ]
        ends = [each for both in times for each in both if abs(each) != INFINITY]
        since = INFINITY
        if ends:
            found.newest_at = moment(max(ends))
            found.window = min(_WINDOW, timedelta(microseconds=max(ends) - min(ends)))
            since = max(ends) - found.window // timedelta(microseconds=1)
        deleted = (key for key, first in self._first.items() if first is None)
        archived = chain(self._store.archived.streams(), deleted)
        counts = self._streams.count(archived, since, self._alias, stream_key)
        for type_ in found.types.values():
            for version in type_.versions.values():
                version.streams = counts.streams[version.number]
                version.open_streams = counts.open[version.number]
                version.closed_since = counts.closed_since[version.number]

    def _alias(self, mask: int) -> int:
        """A mask of versions as that of those that they are counted with."""
        if not self._counted_as:
            return mask
        made = 0
        while mask:
            low = mask & -mask
            mask ^= low
            number = low.bit_length() - 1
            while number in self._counted_as:
                number = self._counted_as[number]
            made |= 1 << number
        return made
