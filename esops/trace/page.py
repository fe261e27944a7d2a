"""A trace as one HTML page: a timeline that can be zoomed, with the tree of causes below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from esops.moments import Moment, between
from esops.page import COLOURS, label, layout, page
from esops.trace.graph import Forest, Node
from esops.trace.render import Line, apart, categories, clock, remark, tree
from esops.trace.search import Trace

_GAP_SHARE = 0.04
"""Of the whole time: a longer time without an event is shaded."""
_IN_TREE = 5_000
"""Events in the tree."""
_LONGEST_LABEL = 44
"""Characters of a lane's label. The whole name is in the text that appears over an event."""


def trace_page(trace: Trace) -> str:
    """The page as HTML."""
    forest, lanes = trace.forest, _Lanes(trace.forest)
    colours = categories(forest, COLOURS)
    times = [each.recorded_at for each in forest.nodes if each.recorded_at is not None]
    return page(
        "trace.html.j2",
        f"Trace of {trace.about}",
        {"timeline": _figure(forest, lanes, colours)},
        events=len(forest.nodes),
        streams=len({lanes.name(each) for each in forest.nodes}),
        stores=sorted({each.store for each in forest.nodes}),
        first=clock(min(times)) if times else "",
        lasted=apart(lasted) if (lasted := _lasted(times)) is not None else "",
        timed=bool(times),
        limited=trace.limited,
        missing=forest.missing,
        not_loaded=forest.not_loaded,
        not_searched=trace.not_searched,
        circles=[[forest.nodes[at].id for at in circle] for circle in forest.circles],
        duplicates=forest.duplicates,
        rows=[
            _row(lanes, colours, forest, line)
            for _, line in zip(range(_IN_TREE), tree(forest), strict=False)
        ],
        beyond=max(0, len(forest.nodes) - _IN_TREE),
    )


def _lasted(times: Sequence[Moment]) -> timedelta | None:
    return between(min(times), max(times)) if times else None


def _row(lanes: _Lanes, colours: Mapping[str, str], forest: Forest, line: Line) -> dict[str, Any]:
    if line.at is None:
        return {"before": line.before, "outside": line.outside and line.outside.in_words}
    each = forest.nodes[line.at]
    return {
        "before": line.before,
        "outside": None,
        "type": each.type,
        "colour": colours[each.category],
        "where": f"{lanes.name(each)} @{each.version}",
        "since": line.since,
        "at": clock(each.recorded_at),
        "id": each.id,
        "remark": remark(forest, line.at),
    }


class _Lanes:
    """The lanes of the timeline: one for each stream, named with the store if there are several."""

    def __init__(self, forest: Forest) -> None:
        self._several = len({each.store for each in forest.nodes}) > 1
        self.names = list(dict.fromkeys(self.name(each) for each in forest.nodes))
        numbers = {name: at for at, name in enumerate(self.names)}
        self.heights = [numbers[self.name(each)] for each in forest.nodes]
        """The lane of each event, from 0."""

    def name(self, each: Node) -> str:
        return f"{each.store}/{each.named_stream}" if self._several else each.named_stream


def _figure(forest: Forest, lanes: _Lanes, colours: Mapping[str, str]) -> go.Figure:
    """The timeline: events as points in lanes, and lines from causes to effects.

    It can be switched between times and the order of events, which helps if many events were
    recorded at the same time, or if the store has no times.
    """
    nodes = forest.nodes
    # The plot's axis is a browser's, whose times are those of a datetime at most.
    timed = all(isinstance(each.recorded_at, datetime) for each in nodes)
    in_order: list[Any] = list(range(len(nodes)))
    by_time = [each.recorded_at for each in nodes] if timed else in_order
    groups = [
        (name, colour, [at for at, each in enumerate(nodes) if each.category == name])
        for name, colour in colours.items()
    ]
    traces = [
        _edges(forest, by_time, lanes.heights),
        *(_points(forest, lanes, group, by_time) for group in groups),
    ]
    shades = list(_gaps(nodes)) if timed else []
    buttons = [
        _button(
            text,
            [_along(forest, values), *([values[at] for at in ats] for *_, ats in groups)],
            axis,
        )
        for text, values, axis in (
            ("by time", by_time, {"xaxis.type": "date", "shapes": shades}),
            ("in order", in_order, {"xaxis.type": "linear", "shapes": []}),
        )
    ]
    return go.Figure(traces, _figure_layout(lanes, buttons if timed else [], shades))


def _points(
    forest: Forest, lanes: _Lanes, group: tuple[str, str, list[int]], across: list[Any]
) -> go.Scatter:
    """The events of one category."""
    category, colour, events = group
    return go.Scatter(
        name=label(category),
        mode="markers",
        x=[across[at] for at in events],
        y=[lanes.heights[at] for at in events],
        marker={
            "size": 11,
            "color": colour,
            "line": {"width": 1, "color": "rgba(128,128,128,0.6)"},
        },
        hovertext=[_hover_text(forest, lanes, at) for at in events],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _figure_layout(
    lanes: _Lanes, buttons: list[dict[str, Any]], shades: list[dict[str, Any]]
) -> dict[str, Any]:
    """The layout of the timeline; without buttons, its axis is the order of events."""
    menu = {"type": "buttons", "direction": "right", "buttons": buttons, "showactive": False}
    number = len(lanes.names)
    return layout(
        height=max(300, 120 + 30 * number),
        hovermode="closest",
        dragmode="pan",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        margin={"l": 60, "r": 20, "t": 60, "b": 45},
        xaxis={"type": "date" if buttons else "linear", "showgrid": True},
        yaxis={
            "tickvals": list(range(number)),
            "ticktext": [label(_shortened(name)) for name in lanes.names],
            "range": [number - 0.5, -0.5],
            # A few lanes fit on the screen, so that zooming only the time is more useful.
            "fixedrange": number <= 30,
            "zeroline": False,
        },
        shapes=shades,
        updatemenus=[{**menu, "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}]
        if buttons
        else [],
        meta={"zoom": True},
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…"


def _button(text: str, across: list[list[Any]], layout: dict[str, Any]) -> dict[str, Any]:
    return {
        "label": text,
        "method": "update",
        "args": [{"x": across}, {**layout, "xaxis.autorange": True}],
    }


def _edges(forest: Forest, across: list[Any], heights: list[int]) -> go.Scatter:
    """Lines from causes to effects."""
    return go.Scatter(
        name="cause",
        mode="lines",
        x=_along(forest, across),
        y=_along(forest, heights),
        line={"width": 1.3, "color": "rgba(128,128,128,0.75)"},
        hoverinfo="skip",
    )


def _along(forest: Forest, values: list[Any]) -> list[Any]:
    """The values of each cause and effect, with a break after each pair."""
    return [
        value
        for at, parent in enumerate(forest.parent)
        if parent is not None
        for value in (values[parent], values[at], None)
    ]


def _hover_text(forest: Forest, lanes: _Lanes, at: int) -> str:
    each, parent = forest.nodes[at], forest.parent[at]
    lines = [
        f"<b>{label(each.type)}</b>",
        f"{label(lanes.name(each))} @{each.version}",
        f"id {label(each.id)}",
    ]
    if each.recorded_at is not None:
        lines.append(f"{clock(each.recorded_at)} UTC")
    if parent is not None:
        cause = forest.nodes[parent]
        span = between(cause.recorded_at, each.recorded_at)
        since = "" if span is None else f", {apart(span)}"
        lines.append(f"caused by {label(cause.type)}{since}")
    elif outside := forest.outside_of.get(at):
        lines.append(f"caused by {label(outside.in_words)}")
    elif wrong := remark(forest, at):
        lines.append(label(wrong))
    return "<br>".join(lines)


def _gaps(nodes: list[Node]) -> Iterator[dict[str, Any]]:
    """Shades for long times without an event."""
    times = sorted(each.recorded_at for each in nodes if isinstance(each.recorded_at, datetime))
    if len(times) < 3:
        return
    # Shading every short pause would hide the plot.
    least = max(timedelta(seconds=1), (times[-1] - times[0]) * _GAP_SHARE)
    for low, high in pairwise(times):
        if high - low >= least:
            yield _gap(low, high)


def _gap(low: datetime, high: datetime) -> dict[str, Any]:
    """A shade over the whole height of the plot, with the length of the gap."""
    return {
        "type": "rect",
        "x0": low,
        "x1": high,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "layer": "below",
        "line": {"width": 0},
        "fillcolor": "rgba(201,130,10,0.12)",
        "label": {"text": apart(high - low), "textposition": "top center", "font": {"size": 11}},
    }
