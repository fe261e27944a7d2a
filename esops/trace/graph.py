"""The forest of causes: which event caused which.

An event names its cause by an id or, in message-db, by a stream and a version. Each event has at
most one cause, so that the result is a forest once circles are cut. Missing causes, duplicate ids
and circles are reported and stop nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from esops.events import (
    CAUSATION_KEYS,
    CAUSATION_STREAM,
    CAUSATION_VERSION,
    CORRELATION_KEYS,
    RecordedEvent,
    category_of,
    trace_id_of,
)
from esops.moments import INFINITY, Moment, microseconds_of


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
    correlation = _first(meta, keys.correlation or CORRELATION_KEYS) or trace_id_of(meta)
    cause = _first(meta, keys.causation or CAUSATION_KEYS)
    if (
        cause is None
        and meta.get(CAUSATION_STREAM) is not None
        and meta.get(CAUSATION_VERSION) is not None
    ):
        cause = f"{meta[CAUSATION_STREAM]}/{meta[CAUSATION_VERSION]}"
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
    )


def _first(meta: dict[str, Any], keys: Iterable[str]) -> str | None:
    return next((str(meta[key]) for key in keys if meta.get(key) is not None), None)


@dataclass
class Forest:
    """Events in the order in which they happened, and their causes.

    Events are referred to by their index in `nodes`.
    """

    nodes: list[Node] = field(default_factory=list)
    parent: list[int | None] = field(default_factory=list)
    """For each event, its cause; None if that is not in the forest."""
    children: list[list[int]] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    """Events that name no cause, whose cause is missing, or that were cut from a circle."""
    missing: list[str] = field(default_factory=list)
    """Causes that are named and were not found, in the order of the events."""
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


def build(found: Iterable[Node]) -> Forest:
    """Build the forest of some events. An event that is given twice counts once."""
    # An event can be found by several searches, and an id can be shared by several events.
    unique = {(each.store, each.stream, each.version, each.id): each for each in found}
    forest = Forest(nodes=_in_order(unique.values()))
    nodes = forest.nodes
    # A cause is named by an id or by stream and version: one table serves both.
    by_name: dict[str, int] = {}
    for at, each in enumerate(nodes):
        if each.id in by_name and each.id not in forest.duplicates:
            forest.duplicates.append(each.id)
        by_name.setdefault(each.id, at)
        by_name.setdefault(each.reference, at)
    forest.parent = [_cause_of(each, by_name, forest.missing) for each in nodes]
    _cut_circles(forest)
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


def _cause_of(each: Node, by_name: dict[str, int], missing: list[str]) -> int | None:
    if each.cause is None:
        return None
    parent = by_name.get(each.cause)
    if parent is None and each.cause not in missing:
        missing.append(each.cause)
    return parent


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
