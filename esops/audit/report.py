"""`esops audit streams --report`: the audit as one HTML page with plots that can be zoomed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import plotly.graph_objects as go

from esops.audit.streams import LISTED, MANY, StreamsAudit, StreamsRequest
from esops.events import StreamInfo
from esops.page import COLOURS, label, layout, page
from esops.stores.base import EventStore, require
from esops.stores.lengths import (
    MonthCount,
)
from esops.term.result_file import write_page

_SERIES = len(COLOURS) - 1
"""Categories with a colour of their own in a plot over time; the others share one."""
_ROWS = 40
"""Categories in the plot of categories by month."""
_NONE = "no category"
_BARS = 20
"""Streams in the plot of the longest ones."""
_BREACHES = 200
"""Broken budgets in the table."""


def write_report(
    path: Path,
    store: EventStore,
    found: StreamsAudit,
    request: StreamsRequest,
    *,
    budgets: bool,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write an audit as a page. `budgets`: whether any are configured.

    Reads every event for the plots over time, and tells `say` if there are many. Raises UsageError
    if the file cannot be written.
    """
    if found.whole.events > MANY:
        say(f"reading each of {found.whole.events:,} events for the report's plots over time")
    months = require(store, store.lengths, "lengths").monthly(request.filter)
    text = _page(found, months, request.category, budgets=budgets)
    write_page(path, text)


def _page(
    found: StreamsAudit, months: Sequence[MonthCount], category: str | None, *, budgets: bool
) -> str:
    document = found.as_dict(full=True)
    whole = document["summary"]
    tiles = [
        (f"{whole['streams']:,}", "streams"),
        (f"{whole['events']:,}", "events"),
        (f"{whole['mean']:,}", "events in a stream on average"),
        (f"{whole['p50']:,}", "events at most in half of the streams"),
        (f"{whole['p90']:,}", "events at most in 90% of them"),
        (f"{whole['p99']:,}", "events at most in 99% of them"),
        (f"{whole['max']:,}", "events in the longest"),
        (f"{whole['longest_1_percent_share']:.0%}", "of all events are in the longest 1%"),
    ]
    figures = {"lengths": _lengths_figure(found)}
    names = list(dict.fromkeys(name or _NONE for (name, _), _ in found.ordered()))
    colours = {name: COLOURS[at % _SERIES] for at, name in enumerate(names)}
    if months:
        figures["growth"] = _growth_figure(months, colours)
        # Of one month it would be one column, which says no more than the bars.
        if len({each.month for each in months}) > 1:
            figures["months"] = _months_figure(months)
    if found.longest:
        figures["longest"] = _longest_figure(found, colours)
    return page(
        "audit.html.j2",
        f"Streams of {found.store}",
        figures,
        how=found.how,
        category=category,
        tiles=tiles,
        broken=found.broken,
        findings=document["findings"][:_BREACHES],
        budgets=budgets,
        longest=document["streams"][:LISTED],
        categories=document["categories"],
        tenants=any(each["tenant"] for each in document["categories"]),
        no_months="Growth is not shown: this store cannot be asked when its events were recorded.",
    )


def _lengths_figure(found: StreamsAudit) -> go.Figure:
    bins = found.whole.histogram()
    names = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high, *_ in bins]
    bars = [
        go.Bar(
            name=what,
            x=names,
            y=[each[at] for each in bins],
            hovertemplate="%{x} events: %{y:,} " + what + "<extra></extra>",
        )
        for at, what in ((2, "streams"), (3, "events in them"))
    ]
    return go.Figure(
        bars,
        layout(
            barmode="group",
            height=360,
            legend={"orientation": "h", "y": 1.1},
            xaxis={"title": "events in a stream", "type": "category"},
            yaxis={"type": "log", "dtick": 1},
        ),
    )


def _growth_figure(months: Sequence[MonthCount], colours: Mapping[str, str]) -> go.Figure:
    axis, by_category = _by_category(months)
    # A reader cannot distinguish more colours than these.
    largest = list(by_category)[:_SERIES]
    rest: Counter[str] = Counter()
    for category in list(by_category)[_SERIES:]:
        rest.update(by_category[category])
    series = [(category, by_category[category]) for category in largest] + (
        [("others", rest)] if rest else []
    )
    bars = [
        go.Bar(
            name=label(category),
            marker={"color": colours.get(category, COLOURS[-1])},
            x=axis,
            y=[counts[month] for month in axis],
            hovertemplate=f"{label(category)}, %{{x}}: %{{y:,}} events<extra></extra>",
        )
        for category, counts in series
    ]
    return go.Figure(
        bars,
        layout(
            barmode="stack",
            height=360,
            legend={"orientation": "h", "y": 1.15},
            xaxis={"type": "category"},
            yaxis={"title": "events", "separatethousands": True},
        ),
    )


def _months_figure(months: Sequence[MonthCount]) -> go.Figure:
    axis, by_category = _by_category(months)
    names = list(by_category)[:_ROWS]
    # None instead of 0 leaves a cell empty: months without events stand out.
    cells = [[by_category[name][month] or None for month in axis] for name in names]
    heat = go.Heatmap(
        x=axis,
        y=[label(name) for name in names],
        z=cells,
        xgap=1,
        ygap=1,
        hovertemplate="%{y}, %{x}: %{z:,} events<extra></extra>",
        colorbar={"title": "events", "thickness": 12},
    )
    return go.Figure(
        [heat],
        layout(
            height=max(320, 130 + 26 * len(names)),
            xaxis={"type": "category"},
            yaxis={"type": "category", "autorange": "reversed"},
        ),
    )


def _longest_figure(found: StreamsAudit, colours: Mapping[str, str]) -> go.Figure:
    streams = found.longest[:_BARS]
    categories = list(dict.fromkeys(info.category for info in streams))
    bars = [
        go.Bar(
            name=label(category or _NONE),
            marker={"color": colours.get(category or _NONE, COLOURS[-1])},
            orientation="h",
            y=[label(_named(info)) for info in streams if info.category == category],
            x=[info.length for info in streams if info.category == category],
            hovertemplate="%{y}: %{x:,} events<extra></extra>",
        )
        for category in categories
    ]
    # Plotly would order the bars by category.
    order = [label(_named(info)) for info in streams]
    return go.Figure(
        bars,
        layout(
            height=max(320, 90 + 22 * len(streams)),
            showlegend=len(categories) > 1,
            legend={"orientation": "h", "y": 1.08},
            xaxis={"title": "events", "separatethousands": True},
            yaxis={
                "type": "category",
                "categoryorder": "array",
                "categoryarray": order,
                "autorange": "reversed",
            },
        ),
    )


def _named(info: StreamInfo) -> str:
    return f"{info.tenant}/{info.name}" if info.tenant else info.name


def _by_category(months: Sequence[MonthCount]) -> tuple[list[str], dict[str, Counter[str]]]:
    """All months from the first to the last, and for each category its events by month.

    The category with the most events comes first.
    """
    found: dict[str, Counter[str]] = {}
    for category, month, events in months:
        found.setdefault(category or _NONE, Counter())[month] += events
    ordered = dict(sorted(found.items(), key=lambda each: (-each[1].total(), each[0])))
    first, last = min(each.month for each in months), max(each.month for each in months)
    return _every_month(first, last), ordered


def _every_month(first: str, last: str) -> list[str]:
    """All months between two, such as 2026-11, so that a month without events is not left out."""
    year, month = map(int, first.split("-"))
    axis = []
    while (name := f"{year:04d}-{month:02d}") <= last:
        axis.append(name)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return axis
