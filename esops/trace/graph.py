"""The forest of causes: which event caused which.

An event names its cause by an id or, in message-db, by a stream and a version. Each event has at
most one cause, so that the result is a forest once circles are cut. Missing causes, duplicate ids
and circles are reported and stop nothing.

What is named need not be an event: it can be a span of OpenTelemetry, a message that no store
keeps, or the correlation itself, which a root names in some libraries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from esops.causality import (
    CORRELATION_KEYS,
    Span,
    cause_in,
    first_of,
    one_writing,
    parse_traceparent,
    recorded_in,
)
from esops.events import RecordedEvent, category_of
from esops.moments import INFINITY, Moment, microseconds_of

CauseKind = Literal[
    "event", "span", "message", "correlation", "missing", "unknown", "not_loaded", "circle"
]
"""What an event's cause is: an event of the trace; a span; a message that is not stored as an
event; the event's own correlation id, which makes it a root; an event that is gone; not found, so
that it may be such an event or a message; not looked up, or left out for the limit; or cut from a
circle.
"""
Name = str | tuple[str, int]
"""What an event is called by: its id in the writing that all writings of it share, or its stream
and version.
"""
Key = tuple[str, tuple[Any, ...], str, int, str]
"""What an event is known by within a trace: its store, position, stream, version and id."""
Judged = Mapping[tuple[str, Name], CauseKind]
"""What the causes are that were not found, by the store whose events name them."""


@dataclass(frozen=True)
class Node:
    """An event of a trace."""

    store: str
    id: str
    stream: str
    version: int
    position: str
    type: str
    recorded_at: Moment | None
    correlation_id: str | None
    cause: str | None
    """What the event names as its cause: an id, or `stream/version`. None if it names nothing."""
    data: bytes = field(default=b"", repr=False)
    order: tuple[Any, ...] = ()
    """Its position, as integers that can be compared within its store."""
    trace: str | None = None
    """The W3C trace that it was written in, as 32 hex digits."""
    span: str | None = None
    """The span that it was written in, as 16 hex digits."""
    refers: tuple[str, int] | None = None
    """The stream and version of its cause, where it names its cause by these."""
    tenant: str = ""
    """Its tenant; empty where the store has none."""

    @property
    def identity(self) -> Key:
        """What it is known by within a trace."""
        return self.store, self.order, self.stream, self.version, self.id

    @property
    def key(self) -> str:
        """Its id in the writing that all writings of it share."""
        return one_writing(self.id)

    @property
    def cause_key(self) -> Name | None:
        """What it names as its cause, in the writing that all writings of that share."""
        return self.refers or (None if self.cause is None else one_writing(self.cause))

    @property
    def cause_span(self) -> Span | None:
        """Its cause, where that is a span."""
        return None if self.cause is None or self.refers else parse_traceparent(self.cause)

    @property
    def names_correlation(self) -> bool:
        """Whether what it names as its cause is its correlation id, as a root does in Emmett."""
        return (
            self.cause is not None
            and self.correlation_id is not None
            and self.cause_key == one_writing(self.correlation_id)
        )

    @property
    def names(self) -> tuple[Name, Name]:
        """What other events can call it: by its id, or by its stream and version."""
        return self.key, (self.stream, self.version)

    @property
    def named_stream(self) -> str:
        """Its stream, after its tenant where the store has several."""
        return f"{self.tenant}/{self.stream}" if self.tenant else self.stream

    @property
    def category(self) -> str:
        """The category that decides its colour; the store, if the stream has none."""
        return category_of(self.stream) or self.store


@dataclass(frozen=True)
class Keys:
    """The metadata keys that hold the ids. Empty: the conventional ones."""

    correlation: Sequence[str] = ()
    causation: Sequence[str] = ()


def node(store: str, event: RecordedEvent, keys: Keys) -> Node:
    """An event as a node. Metadata that is not JSON counts as empty."""
    try:
        meta = event.meta()
    except orjson.JSONDecodeError:
        meta = {}
    trace, span = recorded_in(meta)
    correlation = first_of(meta, keys.correlation or CORRELATION_KEYS) or trace
    cause = cause_in(meta, keys.causation)
    parent = None if cause is None or cause.reference else parse_traceparent(cause.text)
    return Node(
        store,
        event.id,
        event.stream,
        event.version,
        str(event.position),
        event.type,
        event.moment,
        correlation,
        None if cause is None else cause.text,
        event.data,
        tuple(event.position),
        trace or (parent and parent.trace),
        span,
        None if cause is None else cause.reference,
        event.tenant,
    )


@dataclass(frozen=True)
class Outside:
    """A cause that is no event of the trace: a span, a message, or what was not found and may be
    either a message or an event. Its events are those that name it.
    """

    kind: Literal["span", "message", "unknown"]
    name: str
    """The span's W3C traceparent or the message's id, as the first of the events names it."""
    events: list[int]

    @property
    def in_words(self) -> str:
        """What it is."""
        span = parse_traceparent(self.name) if self.kind == "span" else None
        if span is not None:
            return f"span {span.id} of trace {span.trace}"
        if self.kind == "unknown":
            return f"{self.name} was not found: an event that is gone, or a message"
        return f"message {self.name}, not stored as an event"


@dataclass
class Forest:
    """Events in the order in which they happened, and their causes.

    Events are referred to by their index in `nodes`.
    """

    nodes: list[Node] = field(default_factory=list)
    parent: list[int | None] = field(default_factory=list)
    """For each event, its cause; None if that is not in the forest."""
    kinds: list[CauseKind | None] = field(default_factory=list)
    """For each event, what its cause is; None if it names none."""
    outside: list[Outside] = field(default_factory=list)
    """The spans and messages that are causes, in the order of their first events."""
    outside_of: dict[int, Outside] = field(default_factory=dict)
    """For each event whose cause is one of these, that cause."""
    children: list[list[int]] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    """Events that name no cause or one that is no event of the forest, or were cut from a circle.
    """
    missing: list[str] = field(default_factory=list)
    """Causes that were looked for and not found, but for messages, in the order of their effects:
    events that are gone, or what may be one.
    """
    not_loaded: list[str] = field(default_factory=list)
    """Causes that were not looked up, or left out for the limit, in the order of their effects."""
    circles: list[list[int]] = field(default_factory=list)
    """Groups of events that cause each other. The earliest event of each is a root."""
    duplicates: list[str] = field(default_factory=list)
    """Ids that several events share. The first of these is the cause of events that name the id."""

    def walk(self) -> Iterable[int]:
        """All events, depth first: each root, followed by all its effects."""
        waiting = list(reversed(self.roots))
        while waiting:
            at = waiting.pop()
            yield at
            waiting += reversed(self.children[at])


def build(found: Iterable[Node], judged: Judged = {}) -> Forest:  # noqa: B006 - not written to
    """Build the forest of some events. An event that is given twice counts once.

    `judged`: what is known of causes that are not among the events. Where nothing is, a stream and
    version are those of an event that is gone, and an id may be a message's as well.
    """
    # An event can be found by several searches, and an id can be shared by several events.
    forest = Forest(nodes=_in_order({each.identity: each for each in found}.values()))
    nodes = forest.nodes
    names = _Names(forest)
    forest.parent = [
        None if _is_left_out(each, judged) else names.cause_of(at, each)
        for at, each in enumerate(nodes)
    ]
    _cut_circles(forest)
    in_circles = {at for circle in forest.circles for at in circle}
    for at, each in enumerate(nodes):
        cut = forest.parent[at] is None and at in in_circles
        forest.kinds.append("circle" if cut else _kind(each, forest.parent[at], judged))
    _list_outside(forest)
    forest.children = [[] for _ in nodes]
    for at, parent in enumerate(forest.parent):
        if parent is None:
            forest.roots.append(at)
        else:
            forest.children[parent].append(at)
    forest.depth = [0] * len(nodes)
    for at in forest.walk():
        parent = forest.parent[at]
        forest.depth[at] = 0 if parent is None else forest.depth[parent] + 1
    return forest


def _in_order(nodes: Iterable[Node]) -> list[Node]:
    """Sort events: within a store by position, across stores by time.

    Clocks jump, so a time must never reverse two events of one store. Each event therefore counts
    as at least as late as those before it in its store.
    """
    by_store: dict[str, list[Node]] = {}
    for each in nodes:
        by_store.setdefault(each.store, []).append(each)
    keyed = []
    for store, theirs in by_store.items():
        latest = -INFINITY
        for number, each in enumerate(
            sorted(theirs, key=lambda it: (it.order, it.stream, it.version))
        ):
            at = -INFINITY if each.recorded_at is None else microseconds_of(each.recorded_at)
            if at < INFINITY:  # which says nothing, and would come after all other stores' events
                latest = max(latest, at)
            keyed.append((latest, store, number, each))
    return [each for *_, each in sorted(keyed, key=lambda it: it[:3])]


class _Names:
    """The events by what others call them: stores, and their tenants, may have the same ids and
    streams.
    """

    def __init__(self, forest: Forest) -> None:
        # By store and tenant, by store, and by neither.
        self._at: dict[tuple[str | None, str | None, Name], int] = {}
        known: set[str] = set()
        for at, each in enumerate(forest.nodes):
            if each.key in known and each.id not in forest.duplicates:
                forest.duplicates.append(each.id)
            known.add(each.key)
            for name in each.names:
                for store, tenant in _places(each):
                    self._at.setdefault((store, tenant, name), at)

    def cause_of(self, at: int, each: Node) -> int | None:
        """The event that is named as the cause: the own tenant's or the own store's, if it has
        one.
        """
        name = each.cause_key
        if name is None:
            return None
        found = (self._at.get((*place, name)) for place in _places(each))
        parent = next((it for it in found if it is not None), None)
        # By an old convention the first message of all has one id as its own, its correlation and
        # its cause.
        return None if parent == at and each.names_correlation else parent


def _places(each: Node) -> Sequence[tuple[str | None, str | None]]:
    return (each.store, each.tenant), (each.store, None), (None, None)


def _is_left_out(each: Node, judged: Judged) -> bool:
    """Whether its own store has its cause, which the limit left out: another store's event of the
    same name is not it.
    """
    return each.cause_key is not None and judged.get((each.store, each.cause_key)) == "not_loaded"


def _kind(each: Node, parent: int | None, judged: Judged) -> CauseKind | None:
    if parent is not None:
        return "event"
    if each.cause_key is None:
        return None
    if each.cause_span is not None:
        return "span"
    kind = judged.get((each.store, each.cause_key))
    if kind != "not_loaded" and each.names_correlation:
        return "correlation"
    return kind or ("missing" if each.refers else "unknown")


def _list_outside(forest: Forest) -> None:
    """List the causes that are not in the forest: what is missing, and what is no event."""
    by_key: dict[Any, Outside] = {}
    missing: dict[Name | None, str] = {}
    not_loaded: dict[Name | None, str] = {}
    for at, (each, kind) in enumerate(zip(forest.nodes, forest.kinds, strict=True)):
        if kind in ("missing", "unknown"):
            missing.setdefault(each.cause_key, each.cause or "")
        elif kind == "not_loaded":
            not_loaded.setdefault(each.cause_key, each.cause or "")
        if kind in ("span", "message", "unknown"):
            key = kind, each.cause_span or each.cause_key
            new = Outside(kind, each.cause or "", [])
            forest.outside_of[at] = by_key.setdefault(key, new)
            forest.outside_of[at].events.append(at)
    forest.missing, forest.not_loaded = list(missing.values()), list(not_loaded.values())
    forest.outside = list(by_key.values())


def _cut_circles(forest: Forest) -> None:
    """Find each circle by following causes, and make its earliest event a root."""
    state = [0] * len(forest.nodes)  # 0: not visited, 1: on the current path, 2: done
    for start in range(len(forest.nodes)):
        path: list[int] = []
        at: int | None = start
        while at is not None and state[at] == 0:
            state[at] = 1
            path.append(at)
            at = forest.parent[at]
        if at is not None and state[at] == 1:
            circle = path[path.index(at) :]
            forest.circles.append(sorted(circle))
            forest.parent[min(circle)] = None
        for each in path:
            state[each] = 2
