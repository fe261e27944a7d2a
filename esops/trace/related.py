"""Which events of a forest belong to some of them."""

from __future__ import annotations

from collections.abc import Container, Iterator

from esops.causality import trace_id
from esops.trace.graph import Forest, Key, Node


def tops(forest: Forest) -> list[int]:
    """For each event, the root that it comes from."""
    found = list(range(len(forest.nodes)))
    for at in forest.walk():
        parent = forest.parent[at]
        found[at] = at if parent is None else found[parent]
    return found


def connected(forest: Forest, around: Container[Key]) -> Iterator[Node]:
    """These events, their causes up to the roots, all their effects, and the events that share
    with such a root a cause that is no event, or a W3C trace.
    """
    above: set[int] = set()
    below: set[int] = set()
    for at, each in enumerate(forest.nodes):
        if each.identity not in around:
            continue
        up: int | None = at
        while up is not None and up not in above:
            above.add(up)
            up = forest.parent[up]
        waiting = [at]
        while waiting:
            down = waiting.pop()
            if down not in below:
                below.add(down)
                waiting += forest.children[down]
    keep = above | below
    roots = {at for at in keep if forest.parent[at] is None}
    for root in roots & forest.outside_of.keys():
        keep.update(forest.outside_of[root].events)
    keep |= _of_traces(forest, roots)
    return (forest.nodes[at] for at in sorted(keep))


def _of_traces(forest: Forest, roots: set[int]) -> set[int]:
    """The roots that are in a trace with one of these. The first event of a trace may have the
    trace's id only as its correlation.
    """
    known = {each.trace for each in forest.nodes} - {None}
    traces = {
        at: each.trace or trace_id(each.correlation_id or "")
        for at, each in enumerate(forest.nodes)
        if forest.parent[at] is None  # where causes connect events, a trace need not
    }
    wanted = {traces[root] for root in roots & traces.keys()} & known
    return {at for at, trace in traces.items() if trace in wanted}
