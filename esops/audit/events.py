"""Reads all events once: their types, sizes and times, and what the modelling rules look at.

Only a sample of payloads is decoded. Memory holds something for each type, and caches of a fixed
size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from esops.causality import CORRELATION_KEYS, cause_in, first_of, recorded_in, traces_of
from esops.events import EventFilter, RecordedEvent, StreamKey
from esops.moments import INFINITY, Moment, moment
from esops.stores.base import EventStore, Unsettled
from esops.stores.stream_categories import StreamCategories

_DECODED_FIRST, _DECODED_EVERY = 200, 100
"""Of each type, the first 200 payloads are decoded, and then every hundredth."""
_SHAPES = 20
_KEYS = 500
_STREAMS = 200_000
_IDS = 500_000
_EXAMPLES = 3

Tick = Callable[[int], None]


def _moment(micros: int | None) -> Moment | None:
    return None if micros is None else moment(micros)


@dataclass
class EventType:
    """One type of event, in all streams."""

    name: str
    events: int = 0
    bytes: int = 0
    largest: int = 0
    first_micros: int | None = None
    last_micros: int | None = None
    categories: Counter[str | None] = field(default_factory=Counter)
    shapes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """The sets of keys in decoded payloads. More than one means that the schema changed."""
    versions: Counter[str] = field(default_factory=Counter)
    """The schema versions that the metadata of decoded events names."""
    uncorrelated: int = 0
    """Decoded events without a correlation id, and without a W3C trace id."""
    uncaused: int = 0
    """Decoded events that name neither what caused them nor the span they were written in."""
    decoded: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        return {
            "type": self.name,
            "events": self.events,
            "bytes": self.bytes,
            "mean_bytes": round(self.bytes / self.events, 1) if self.events else 0.0,
            "largest_bytes": self.largest,
            "first_at": _moment(self.first_micros),
            "last_at": _moment(self.last_micros),
            "categories": [category for category, _ in self.categories.most_common(10)],
            "shapes": [
                {"keys": list(keys), "events": count} for keys, count in self.shapes.most_common()
            ],
            "versions": dict(self.versions),
        }


@dataclass
class EventsAudit:
    """What a read of the events found."""

    store: str
    events: int = 0
    types: dict[str, EventType] = field(default_factory=dict)
    keys: dict[str, Counter[str]] = field(default_factory=dict)
    """For each key, at any depth: the types whose decoded payloads have it, and how often."""
    backwards: list[str] = field(default_factory=list)
    """Example streams in which an event was recorded earlier than its predecessor."""
    backwards_count: int = 0
    duplicates: list[str] = field(default_factory=list)
    duplicates_count: int = 0
    ids_looked_at: float = 1.0
    """The share of ids that were compared; equal ids are always in it together."""
    short: Unsettled | None = None
    """Why some events could not be read; None if all were."""
    correlation: Sequence[str] = ()
    """The keys that hold correlation ids; empty for the field's."""
    causation: Sequence[str] = ()
    """The keys that hold what caused an event; empty for the field's."""

    def as_dict(self) -> dict[str, Any]:
        """Everything under the documented field names."""
        types = sorted(self.types.values(), key=lambda each: -each.events)
        return {
            "store": self.store,
            "events": self.events,
            "types": [each.as_dict() for each in types],
        }


class _Ids:
    """Finds duplicate ids in bounded memory.

    When there are too many ids to keep, only those of a smaller share by hash are compared.
    """

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self.modulus = 1

    def seen(self, identifier: str) -> bool:
        """Whether this id was given before, as far as it is among those that are compared."""
        value = hash(identifier)
        if value % self.modulus:
            return False
        if value in self._seen:
            return True
        self._seen.add(value)
        if len(self._seen) > _IDS:
            self.modulus *= 2
            self._seen = {each for each in self._seen if not each % self.modulus}
        return False


def audit_events(
    store: EventStore,
    *,
    category: str | None = None,
    limit: int | None = None,
    tick: Tick = lambda _: None,
    correlation: Sequence[str] = (),
    causation: Sequence[str] = (),
) -> EventsAudit:
    """Read all events of a store or category, or the first `limit`.

    `correlation`, `causation`: the keys of the metadata that hold these ids; empty for those of the
    field's conventions.
    If some events cannot be read yet, the result covers the others, and its `short` says why.
    """
    found = EventsAudit(store.name, correlation=correlation, causation=causation)
    ids = _Ids()
    newest: dict[StreamKey, int] = {}
    categories = StreamCategories(store)
    try:
        for batch in store.read_all(filter=EventFilter(category=category)):
            categories.learn(batch.events)
            for event in batch.events:
                _look_at(found, event, ids, newest)
                found.types[event.type].categories[categories.of(event)] += 1
                if limit is not None and found.events >= limit:
                    found.ids_looked_at = 1 / ids.modulus
                    return found
            tick(found.events)
    except Unsettled as short:
        found.short = short
    found.ids_looked_at = 1 / ids.modulus
    return found


def _look_at(
    found: EventsAudit, event: RecordedEvent, ids: _Ids, newest: dict[StreamKey, int]
) -> None:
    found.events += 1
    kind = found.types.get(event.type)
    if kind is None:
        kind = found.types[event.type] = EventType(event.type)
    size = len(event.data) + len(event.metadata)
    kind.events += 1
    kind.bytes += size
    kind.largest = max(kind.largest, size)
    # Microseconds: making a datetime of each event would double the time.
    at = event.recorded_microseconds
    if at is not None:
        _note_time(kind, at)
    if at is not None and abs(at) != INFINITY:
        key = StreamKey(event.stream, event.tenant)
        before = newest.get(key)
        if before is not None and at < before:
            found.backwards_count += 1
            name = f"{key.tenant}/{key.stream}" if key.tenant else key.stream
            if len(found.backwards) < _EXAMPLES and name not in found.backwards:
                found.backwards.append(name)
        # Forgetting all streams at once is crude, and misses a few pairs of events in a store with
        # very many streams. It keeps the read fast.
        if len(newest) >= _STREAMS and key not in newest:
            newest.clear()
        newest[key] = at
    if ids.seen(event.id):
        found.duplicates_count += 1
        if len(found.duplicates) < _EXAMPLES:
            found.duplicates.append(event.id)
    if kind.events <= _DECODED_FIRST or kind.events % _DECODED_EVERY == 0:
        _decode(found, kind, event)


def _note_time(kind: EventType, at: int) -> None:
    first, last = kind.first_micros, kind.last_micros
    kind.first_micros = at if first is None or at < first else first
    kind.last_micros = at if last is None or at > last else last


def _decode(found: EventsAudit, kind: EventType, event: RecordedEvent) -> None:
    kind.decoded += 1
    try:
        meta = event.meta()
        # OpenTelemetry's ids do the same: a trace is one request, and the span that an event was
        # written in says what it comes from.
        trace, span = recorded_in(meta)
        correlated = first_of(meta, found.correlation or CORRELATION_KEYS) is not None
        caused = cause_in(meta, found.causation) is not None
        kind.uncorrelated += not (correlated or trace or traces_of(meta, found.causation))
        kind.uncaused += not caused and span is None
        version = meta.get("schemaVersion") or meta.get("$schemaVersion") or meta.get("version")
        if version is not None:
            kind.versions[str(version)] += 1
    except orjson.JSONDecodeError:
        pass
    try:
        value = event.json()
    except orjson.JSONDecodeError:
        return
    if isinstance(value, dict):
        shape = tuple(sorted(value))
        if shape in kind.shapes or len(kind.shapes) < _SHAPES:
            kind.shapes[shape] += 1
        _keys_in(found, kind, value)


def _keys_in(found: EventsAudit, kind: EventType, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in found.keys or len(found.keys) < _KEYS:
                found.keys.setdefault(key, Counter())[kind.name] += 1
            _keys_in(found, kind, inner)
    elif isinstance(value, list):
        for inner in value[:5]:  # items of a list have the same keys, as a rule
            _keys_in(found, kind, inner)
