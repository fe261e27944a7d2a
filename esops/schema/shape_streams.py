"""Which streams that are still open have an event of one shape.

The events are read once more, when it is known already which shapes a type has: a type with very
many of them shows which names are data only at the end. Memory holds the newest streams, as
open_streams.py does, and their list is sorted on the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

from esops.events import Position, RecordedEvent, StreamKey
from esops.schema.closing import ClosingRule
from esops.schema.columns import LookedAt, looked_at, stream_key
from esops.schema.inventory import Inventory
from esops.schema.mapped_shapes import MappedShapes
from esops.schema.reading import EventSelection, Progress, SchemaReader
from esops.schema.shapes import MOST_NAMES, Shapes, ShapeVariant
from esops.schema.stream_runs import OpenStreamRow, StreamRuns
from esops.schema.text_patterns import TextPatterns
from esops.schema.type_inventory import TypeInventory
from esops.schema.versions import versioned
from esops.stores.base import EventStore, Unsettled

_IN_MEMORY = 60_000
"""Streams that are in memory at once."""


class _ShapedKind:
    """One stored type in one category: whether it closes its stream, and which of its payloads have
    the shape.
    """

    def __init__(
        self, type_: TypeInventory | None, shape: str, shapes: Shapes, *, closes: bool
    ) -> None:
        """`type_`: None where it is another one."""
        self.closes = closes
        self.wanted = type_ is not None
        self._type, self._shape = type_, shape
        if type_ is not None and type_.names.maps:
            shapes = MappedShapes(type_.names.maps)
        self._patterns = TextPatterns(shapes)
        self._known: dict[ShapeVariant, bool] = {}
        self._paths = 0
        """In all variants that are looked up there."""

    def has(self, data: bytes) -> bool:
        """Whether a payload has the shape."""
        variant = self._patterns.of(data)
        found = self._known.get(variant)
        if found is None:
            assert self._type is not None
            self._paths += len(variant.fields)
            if self._paths > MOST_NAMES:
                self._paths = 0
                self._known.clear()
            found = self._type.names.shape(variant.shape).hash == self._shape
            self._known[variant] = found
        return found


class _SeenStream:
    """One stream as far as it was read. Written to for each event, so its attributes are bare."""

    __slots__ = ("at", "category", "closed", "first", "hits", "version")

    def __init__(self, category: str | None, first: int) -> None:
        self.category, self.first = category, first
        self.hits = 0
        self.closed = False
        self.version: int | None = None
        self.at: int | None = None

    def row(self, name: Any) -> OpenStreamRow:
        """What is kept of it on the disk."""
        return OpenStreamRow(
            stream_key(name), self.category, self.hits, self.version, self.at, not self.closed
        )


@dataclass
class ShapeStreams:
    """The open streams with an event of the shape; only while its reader is open."""

    rows: StreamRuns
    count: int
    position: Position | None
    """Up to which the events were read."""
    short: Unsettled | None
    """Why some events could not be read; None if all were."""

    def __iter__(self) -> Iterator[OpenStreamRow]:
        return self.rows.merged()


class ShapeStreamsReader:
    """Reads the events of a store for the open streams with one shape. A context manager."""

    def __init__(
        self,
        store: EventStore,
        inventory: Inventory,
        shape: str,
        rule: ClosingRule,
        *,
        in_memory: int = _IN_MEMORY,
    ) -> None:
        """`inventory`: of the type; `shape`: the hash of one of its shapes."""
        self._store, self._shape, self._rule = store, shape, rule
        self._types = inventory.types
        self._in_memory = in_memory
        self._shapes = Shapes()
        self._kinds: dict[tuple[str | None, str], _ShapedKind] = {}
        self._held: dict[Any, _SeenStream] = {}
        self._first: dict[StreamKey, int | None] = {}
        self._runs, self._found = StreamRuns(), StreamRuns()
        self._tenants = store.capabilities.tenants or store.capabilities.named_tenants

    def read(self, category: str | None, progress: Progress = lambda *_: None) -> ShapeStreams:
        """Read all events of the store or category. Raises as SchemaReader does."""
        self._first = self._store.archived.first_readable()
        reader = SchemaReader(self._store, EventSelection(category=category), progress)
        for events in reader.batches():
            at = looked_at(events, tenants=self._tenants)
            self._learn(set(at.streams))
            self._add(events, at)
        self._runs.write(each.row(name) for name, each in self._held.items())
        self._held.clear()
        deleted = (key for key, first in self._first.items() if first is None)
        archived = chain(self._store.archived.streams(), deleted)
        self._runs.write_in_lots(map(OpenStreamRow, archived), self._in_memory)
        count = self._found.write_sorted(
            row for row in self._runs.merged() if row.alive and row.hits
        )
        self._runs.close()
        return ShapeStreams(self._found, count, reader.position, reader.short)

    def _learn(self, names: set[Any]) -> None:
        """Have a state in memory for each of some streams."""
        held = self._held
        new = names - held.keys()
        if not new:
            return
        if len(held) > self._in_memory:
            self._runs.write(each.row(name) for name, each in held.items())
            held.clear()
            new = names
        keys: dict[StreamKey, Any] = {stream_key(name): name for name in new}
        for key, category in self._store.many_streams.categories_of(keys).items():
            held[keys[key]] = _SeenStream(category, self._first.get(key) or 0)

    def _add(self, events: Sequence[RecordedEvent], columns: LookedAt) -> None:
        kinds, held = self._kinds, self._held
        for event, name, at in zip(events, columns.streams, columns.times, strict=True):
            stream = held[name]
            kind = kinds.get((stream.category, event.type))
            if kind is None:
                kind = self._kind(stream.category, event.type)
            stream.closed = kind.closes
            stream.version, stream.at = event.version, at
            if kind.wanted and event.version >= stream.first and kind.has(event.data):
                stream.hits += 1

    def _kind(self, category: str | None, stored: str) -> _ShapedKind:
        type_ = self._types.get((versioned(stored).base, category))
        closes = self._rule.closes(stored, category)
        made = _ShapedKind(type_, self._shape, self._shapes, closes=closes)
        self._kinds[category, stored] = made
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runs.close()
        self._found.close()
