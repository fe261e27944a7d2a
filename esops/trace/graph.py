"""The forest of causes: which event caused which.

An event names its cause by an id or, in message-db, by a stream and a version. Each event has at
most one cause, so that the result is a forest once circles are cut. Missing causes, duplicate ids
and circles are reported and stop nothing.

What is named need not be an event: it can be a span of OpenTelemetry, a message that no store
keeps, or the correlation itself, which a root names in some libraries.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from esops.causality import (
    CORRELATION_KEYS,
    Span,
    first_of,
    named_cause,
    one_writing,
    parse_traceparent,
    recorded_in,
)
from esops.events import RecordedEvent, category_of
from esops.moments import INFINITY, Moment, microseconds_of

CauseKind = Literal["event", "span", "message", "correlation", "missing", "circle"]
"""What an event's cause is: an event of the trace; a span; a message that is not stored as an
event; the event's own correlation id, which makes it a root; missing; or cut from a circle.
"""


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

    @property
    def key(self) -> str:
        """Its id in the writing that all writings of it share."""
        return one_writing(self.id)

    @property
    def cause_key(self) -> str | None:
        """What it names as its cause, in the writing that all writings of that share."""
        return None if self.cause is None else one_writing(self.cause)

    @property
    def cause_span(self) -> Span | None:
        """Its cause, where that is a span."""
        return None if self.cause is None else parse_traceparent(self.cause)

    @property
    def names_correlation(self) -> bool:
        """Whether what it names as its cause is its correlation id, as a root does in Emmett."""
        return (
            self.cause is not None
            and self.correlation_id is not None
            and self.cause_key == one_writing(self.correlation_id)
        )

    @property
    def reference(self) -> str:
        """The event as message-db refers to it: `stream/version`."""
        return f"{self.stream}/{self.version}"

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
    cause = named_cause(meta, keys.causation)
    parent = parse_traceparent(cause or "")
    return Node(
        store,
        event.id,
        event.stream,
        event.version,
        str(event.position),
        event.type,
        event.moment,
        correlation,
        cause,
        event.data,
        tuple(event.position),
        trace or (parent and parent.trace),
        span,
    )


@dataclass(frozen=True)
class Outside:
    """A cause that is no event: a span, or a message. Its events are those that name it."""

    kind: Literal["span", "message"]
    name: str
    """The span's W3C traceparent or the message's id, as the first of the events names it."""
    events: list[int]

    @property
    def in_words(self) -> str:
        """What it is."""
        span = parse_traceparent(self.name)
        if span is not None:
            return f"span {span.id} of trace {span.trace}"
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
    """Events that are named as causes and were not found, in the order of their effects."""
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


def build(found: Iterable[Node], messages: Container[str] = ()) -> Forest:
    """Build the forest of some events. An event that is given twice counts once.

    `messages`: the causes that are known to be messages and no events, in the writing that all
    writings of an id share.
    """
    # An event can be found by several searches, and an id can be shared by several events.
    unique = {(each.store, each.stream, each.version, each.id): each for each in found}
    forest = Forest(nodes=_in_order(unique.values()))
    nodes = forest.nodes
    # A cause is named by an id or by stream and version: one table serves both.
    by_name: dict[str, int] = {}
    for at, each in enumerate(nodes):
        if each.key in by_name and each.id not in forest.duplicates:
            forest.duplicates.append(each.id)
        by_name.setdefault(each.key, at)
        by_name.setdefault(each.reference, at)
    forest.parent = [_cause_of(at, each, by_name) for at, each in enumerate(nodes)]
    _cut_circles(forest)
    in_circles = {at for circle in forest.circles for at in circle}
    for at, each in enumerate(nodes):
        cut = forest.parent[at] is None and at in in_circles
        forest.kinds.append("circle" if cut else _kind(each, forest.parent[at], messages))
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


def _cause_of(at: int, each: Node, by_name: dict[str, int]) -> int | None:
    if each.cause_key is None:
        return None
    parent = by_name.get(each.cause_key)
    # By an old convention the first message of all has one id as its own, its correlation and its
    # cause.
    return None if parent == at and each.names_correlation else parent


def _kind(each: Node, parent: int | None, messages: Container[str]) -> CauseKind | None:
    if parent is not None:
        return "event"
    if each.cause is None:
        return None
    if each.cause_span is not None:
        return "span"
    if each.names_correlation:
        return "correlation"
    return "message" if each.cause_key in messages else "missing"


def _list_outside(forest: Forest) -> None:
    """List the causes that are not in the forest: what is missing, and what is no event."""
    by_key: dict[Any, Outside] = {}
    missing: dict[str | None, str] = {}
    for at, (each, kind) in enumerate(zip(forest.nodes, forest.kinds, strict=True)):
        if kind == "missing":
            missing.setdefault(each.cause_key, each.cause or "")
        elif kind in ("span", "message"):
            key = each.cause_span or each.cause_key
            new = Outside(kind, each.cause or "", [])
            forest.outside_of[at] = by_key.setdefault(key, new)
            forest.outside_of[at].events.append(at)
    forest.missing, forest.outside = list(missing.values()), list(by_key.values())


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


def top_of(forest: Forest, at: int) -> int:
    """The root that an event comes from."""
    while (parent := forest.parent[at]) is not None:
        at = parent
    return at


def connected(forest: Forest, around: Container[str]) -> Iterator[Node]:
    """The events with these ids, their causes up to the roots, all their effects, and the events
    that share with such a root a cause that is no event, or a W3C trace.
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
    tops = {top_of(forest, at) for at in keep}
    for top in tops & forest.outside_of.keys():
        keep.update(forest.outside_of[top].events)
    keep |= _of_traces(forest, tops)
    return (forest.nodes[at] for at in sorted(keep))


def _of_traces(forest: Forest, tops: set[int]) -> set[int]:
    """The roots that are in a trace with one of these. The first event of a trace may have the
    trace's id only as its correlation.
    """
    known = {each.trace for each in forest.nodes} - {None}
    traces = {
        at: each.trace or one_writing(each.correlation_id or "")
        for at, each in enumerate(forest.nodes)
        # Where causes connect events, a trace need not.
        if forest.parent[at] is None and forest.kinds[at] in (None, "span", "correlation")
    }
    wanted = {traces[top] for top in tops & traces.keys()} & known
    return {at for at, trace in traces.items() if trace in wanted}
