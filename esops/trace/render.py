"""A trace as a tree, a timeline, JSON, Mermaid or DOT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from esops.causality import parse_traceparent
from esops.escaping import visible
from esops.moments import Moment, between
from esops.trace.graph import Forest, Name, Node, Outside
from esops.trace.search import Trace

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_ENTITIES = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "&": "#amp;"}
LEVELS = 12
"""Levels of causes that are drawn before an event: a chain of hundreds would leave the screen."""
_GAP = timedelta(seconds=1)
"""A longer time between two events of a timeline gets a line of its own."""


def as_dict(trace: Trace) -> dict[str, Any]:
    """The trace under the documented field names."""
    forest = trace.forest
    return {
        "trace": trace.about,
        "events": [
            {
                "store": each.store,
                "id": each.id,
                "stream": each.stream,
                "version": each.version,
                "position": each.position,
                "type": each.type,
                "recorded_at": each.recorded_at,
                "correlation_id": each.correlation_id,
                "causation_id": _cause(forest, at),
                "cause_kind": forest.kinds[at],
                "trace_id": each.trace,
                "span_id": each.span,
                "depth": forest.depth[at],
                **({"tenant": each.tenant} if each.tenant else {}),
            }
            for at, each in enumerate(forest.nodes)
        ],
        "roots": [forest.nodes[at].id for at in forest.roots],
        "missing_causes": forest.missing,
        "not_loaded": forest.not_loaded,
        "outside_causes": [_outside(forest, each) for each in forest.outside],
        "circles": [[forest.nodes[at].id for at in circle] for circle in forest.circles],
        "duplicates": forest.duplicates,
        "limited": trace.limited,
        "searched": trace.how,
        "not_searched": trace.not_searched,
    }


def _cause(forest: Forest, at: int) -> str | None:
    """The id of an event's cause if it was found, otherwise what the event names as its cause."""
    parent = forest.parent[at]
    return forest.nodes[parent].id if parent is not None else forest.nodes[at].cause


def _outside(forest: Forest, cause: Outside) -> dict[str, Any]:
    span = parse_traceparent(cause.name) if cause.kind == "span" else None
    return {
        "kind": cause.kind,
        "id": cause.name,
        "trace_id": None if span is None else span.trace,
        "span_id": None if span is None else span.id,
        "events": [forest.nodes[at].id for at in cause.events],
    }


def categories(forest: Forest, colours: Sequence[str] = COLOURS) -> dict[str, str]:
    """A colour for each category, in the order in which categories occur."""
    found = dict.fromkeys(each.category for each in forest.nodes)
    return {category: colours[at % len(colours)] for at, category in enumerate(found)}


def apart(delta: timedelta) -> str:
    """A time span in short: `+0.004 s`, `+2 m 05 s`, `+3 d 04 h`."""
    seconds = delta.total_seconds()
    sign, seconds = ("+" if seconds >= 0 else "-"), abs(seconds)
    if seconds < 60:
        return f"{sign}{seconds:.3f} s"
    if seconds < 3_600:
        return f"{sign}{int(seconds // 60)} m {int(seconds % 60):02} s"
    if seconds < 86_400:
        return f"{sign}{int(seconds // 3_600)} h {int(seconds % 3_600 // 60):02} m"
    return f"{sign}{int(seconds // 86_400)} d {int(seconds % 86_400 // 3_600):02} h"


@dataclass(frozen=True)
class Line:
    """A line of a tree: an event, or a cause that is no event."""

    before: str
    """The branches to draw."""
    at: int | None
    """The event; None for a cause that is no event."""
    since: str = ""
    """The time since its cause."""
    outside: Outside | None = None
    """The cause that is no event, in a line of its own above its events."""


def tree(forest: Forest) -> Iterator[Line]:
    """The lines of a tree. Events with one cause that is no event are together below it."""
    shown: set[int] = set()
    for root in forest.roots:
        if root in shown:
            continue
        cause = forest.outside_of.get(root)
        if cause is None:
            yield from _branch(forest, [root], root=True)
            continue
        yield Line("", None, outside=cause)
        yield from _branch(forest, cause.events)
        shown.update(cause.events)


def _branch(forest: Forest, events: Sequence[int], *, root: bool = False) -> Iterator[Line]:
    """Events beside each other, with their effects; a root has no branch before it."""
    waiting = [(events[0], "", "", 0)] if root else _beside(events, "", 0)
    while waiting:
        at, before, below, level = waiting.pop()
        parent = forest.parent[at]
        since = _since(forest.nodes[parent], forest.nodes[at]) if parent is not None else ""
        yield Line(before, at, since)
        waiting += _beside(forest.children[at], below, level)


def _beside(events: Sequence[int], below: str, level: int) -> list[tuple[int, str, str, int]]:
    # Only the branches next to an event are drawn, so that a line has room for its text.
    cut = levels_cut(level)
    # Reversed, since the stack gives out the last one first.
    return [
        (
            at,
            cut + below + ("└─ " if last else "├─ "),
            (below + ("   " if last else "│  "))[-3 * LEVELS :],
            level + 1,
        )
        for number, at in reversed(list(enumerate(events)))
        for last in (number == len(events) - 1,)
    ]


def levels_cut(level: int) -> str:
    """How many levels are not drawn left of one, such as `+227 `; empty where all are."""
    return f"+{level - LEVELS} " if level > LEVELS else ""


def remark(forest: Forest, at: int) -> str:
    """What is wrong with the cause of an event, in words; empty where nothing is."""
    match forest.kinds[at]:
        case "missing":
            return f"its cause {visible(forest.nodes[at].cause or '')} is missing"
        case "not_loaded":
            return f"its cause {visible(forest.nodes[at].cause or '')} is not loaded"
        case "circle":
            return "cut from a circle"
        case _:
            return ""


def _since(earlier: Node, later: Node) -> str:
    span = between(earlier.recorded_at, later.recorded_at)
    return "" if span is None else apart(span)


def clock(at: Moment | None) -> str:
    """A time in UTC with its milliseconds; empty where it is not known."""
    if isinstance(at, datetime):
        return at.replace(tzinfo=None).isoformat(" ", "milliseconds")
    return "" if at is None else str(at)


def timeline(forest: Forest) -> Iterator[tuple[str, Node | None, int]]:
    """Lines of a timeline: the time since the first event, the event, and its depth.

    For a gap: its length, None, and 0.
    """
    first: Moment | None = None
    before: Moment | None = None
    for at, each in enumerate(forest.nodes):
        moment = each.recorded_at
        since = between(moment, moment)
        if since is not None:
            first = first or moment
            since = between(first, moment)
            gap = between(before, moment)
            if gap is not None and gap >= _GAP:
                yield apart(gap), None, 0
            before = moment
        yield clock(moment) or "?" if since is None else apart(since), each, forest.depth[at]


def mermaid(forest: Forest) -> Iterator[str]:
    """The lines of a Mermaid flow chart."""
    yield "flowchart TD"
    names = categories(forest)
    for at, each in enumerate(forest.nodes):
        label = f"{_entities(each.type)}<br/>{_entities(each.named_stream)} @{each.version}"
        yield f'    e{at}["{label}"]:::c{list(names).index(each.category)}'
    for name, what in _absent(forest).values():
        yield f'    {name}["{_entities(what)}"]:::missing'
    for number, outside in enumerate(forest.outside):
        yield f'    o{number}["{_entities(outside.in_words)}"]:::outside'
    for source, target in _edges(forest):
        yield f"    {source} --> {target}"
    for number, colour in enumerate(names.values()):
        yield f"    classDef c{number} stroke:{colour},stroke-width:2px"
    yield "    classDef missing stroke:red,stroke-dasharray: 4"
    yield "    classDef outside stroke-dasharray: 4"


def dot(forest: Forest) -> Iterator[str]:
    """The lines of a graph for Graphviz."""
    yield "digraph trace {"
    yield '    rankdir = "LR"; node [shape = "box", style = "rounded"];'
    names = categories(forest)
    for at, each in enumerate(forest.nodes):
        label = f"{_quoted(each.type)}\\n{_quoted(each.named_stream)} @{each.version}"
        yield f'    e{at} [label = "{label}", color = "{names[each.category]}"];'
    for name, what in _absent(forest).values():
        yield f'    {name} [label = "{_quoted(what)}", style = "dashed", color = "red"];'
    for number, outside in enumerate(forest.outside):
        yield f'    o{number} [label = "{_quoted(outside.in_words)}", style = "dashed"];'
    for source, target in _edges(forest):
        yield f"    {source} -> {target};"
    yield "}"


def _quoted(text: str) -> str:
    return visible(text).replace("\\", "\\\\").replace('"', '\\"')


def _entities(text: str) -> str:
    """Text for Mermaid, which has no other escape, and takes labels for HTML."""
    return "".join(_ENTITIES.get(character, character) for character in visible(text))


def _absent(forest: Forest) -> dict[tuple[str | None, Name | None], tuple[str, str]]:
    """For each cause that is missing or not loaded: its name in a graph, and its label."""
    found: dict[tuple[str | None, Name | None], tuple[str, str]] = {}
    for each, kind in zip(forest.nodes, forest.kinds, strict=True):
        if kind in ("missing", "not_loaded"):
            label = f"{kind.replace('_', ' ')}: {each.cause}"
            found.setdefault((kind, each.cause_key), (f"m{len(found)}", label))
    return found


def _edges(forest: Forest) -> Iterator[tuple[str, str]]:
    absent = _absent(forest)
    outside = {at: f"o{number}" for number, each in enumerate(forest.outside) for at in each.events}
    for at, (parent, kind) in enumerate(zip(forest.parent, forest.kinds, strict=True)):
        if parent is not None:
            yield f"e{parent}", f"e{at}"
        elif kind in ("missing", "not_loaded"):
            yield absent[kind, forest.nodes[at].cause_key][0], f"e{at}"
        elif at in outside:
            yield outside[at], f"e{at}"
