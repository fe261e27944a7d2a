"""`esops schema list --report` and `show --report`: one HTML page with a plot of the shapes of each
type over time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from esops.moments import moment
from esops.page import COLOURS, label, layout, page
from esops.schema.changes import FieldChange
from esops.schema.documents import list_document
from esops.schema.forecast import closing_note, named, sentences
from esops.schema.history import TypeHistory
from esops.schema.inventory import Inventory
from esops.schema.shape_fields import fields_of_shapes
from esops.schema.type_inventory import TypeInventory, TypeVersion
from esops.term.result_file import write_page
from esops.wording import count

_SERIES = len(COLOURS) - 1
"""Shapes with a colour of their own; the others share one."""
_DAY = 86_400_000_000
_MARKS = 30
"""Changes that are marked in a plot."""
_TYPES = 60
"""Types with a plot in the page of a whole store."""
_CHANGES = 500
"""Changes in a table."""


def write_history(path: Path, found: TypeHistory) -> None:
    """Write one type's history as a page. Raises UsageError if the file cannot be written."""
    _write(path, found.inventory, f"History of {found.base}", found.changes)


def write_inventory(path: Path, found: Inventory) -> None:
    """Write a store's inventory as a page. Raises UsageError if the file cannot be written."""
    types = sorted(found.ordered(), key=lambda each: -len(each.versions))[:_TYPES]
    _write(path, found, f"Event schemas of {found.store}", [(each, None) for each in types])


def _write(
    path: Path,
    found: Inventory,
    title: str,
    types: Sequence[tuple[TypeInventory, Sequence[FieldChange] | None]],
) -> None:
    figures: dict[str, go.Figure] = {}
    parts = []
    documents = {(each["type"], each["category"]): each for each in list_document(found)["types"]}
    for number, (type_, changes) in enumerate(types):
        name = f"shapes{number}"
        months = _months(type_)
        if len(months) > 1:
            figures[name] = _timeline(type_, months, changes or ())
        parts.append(
            {
                "title": type_.base + (f" in {type_.category}" if type_.category else ""),
                "figure": name,
                "marked": bool(changes),
                "versions": _with_fields(type_, documents[type_.base, type_.category]["versions"]),
                "changes": None if changes is None else list(map(_row, changes[:_CHANGES])),
            }
        )
    shapes = sum(len(each.versions) for each in found.types.values())
    tiles = [
        (f"{found.events:,}", "events"),
        (f"{len(found.types):,}", "types of events"),
        (f"{shapes:,}", "versions and shapes"),
    ]
    several = [each for _, changes in types for each in changes or ()]
    if several:
        tiles.append((f"{len(several):,}", "changes of fields"))
    text = page(
        "schema.html.j2",
        title,
        figures,
        note=f"Store {found.store}, up to position {found.position}. {closing_note(found)}",
        tiles=tiles,
        types=parts,
        sentences=list(sentences(found)),
    )
    write_page(path, text)


def _with_fields(type_: TypeInventory, versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if type_.names.everything:
        return [{**each, "fields": ""} for each in versions]
    said = {
        each.hash: each.fields if each.like is None else f"like {each.like}, {each.fields}"
        for each in fields_of_shapes(type_)
    }
    return [{**each, "fields": said[each["shape"]]} for each in versions]


def _row(change: FieldChange) -> dict[str, Any]:
    before, after = change.detail.get("previous"), change.detail.get("new")
    if change.kind == "values" and before is None:
        before, after = count(change.detail["values_before"], "value"), "another one"
    return {
        **change.at._asdict(),
        "kind": change.kind,
        "path": change.path,
        "before": ", ".join(before) if isinstance(before, list) else before,
        "after": ", ".join(after) if isinstance(after, list) else after,
    }


def _month(day: int) -> str | None:
    at = moment(day * _DAY)
    # No plot goes beyond the years 1 to 9999.
    return at.isoformat()[:7] if isinstance(at, datetime) else None


def _by_month(version: TypeVersion) -> Counter[str]:
    months: Counter[str] = Counter()
    for day, events in version.days.items():
        name = _month(day)
        if name is not None:
            months[name] += events
    return months


def _months(type_: TypeInventory) -> list[str]:
    """All months from the first event to the last, those without events, too."""
    found = {month for version in type_.versions.values() for month in _by_month(version)}
    if not found:
        return []
    year, month = map(int, min(found).split("-"))
    axis, last = [], max(found)
    while (name := f"{year:04d}-{month:02d}") <= last:
        axis.append(name)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    return axis


def _timeline(type_: TypeInventory, axis: list[str], changes: Sequence[FieldChange]) -> go.Figure:
    versions = type_.ordered()
    counts = {version: _by_month(version) for version in versions}
    total = Counter[str]()
    for months in counts.values():
        total.update(months)
    largest = sorted(versions, key=lambda each: -each.events)[:_SERIES]
    series = [(named(type_, each), counts[each]) for each in versions if each in largest]
    rest: Counter[str] = Counter()
    for each in versions:
        if each not in largest:
            rest.update(counts[each])
    if rest:
        series.append(("others", rest))
    bars = [
        go.Bar(
            name=label(name),
            marker={"color": COLOURS[at % len(COLOURS)]},
            x=axis,
            y=[months[month] / total[month] if total[month] else None for month in axis],
            customdata=[months[month] for month in axis],
            hovertemplate=f"{label(name)}, %{{x}}: %{{customdata:,}} events, %{{y:.1%}}"
            "<extra></extra>",
        )
        for at, (name, months) in enumerate(series)
    ]
    marks = _marks(changes, axis)
    return go.Figure(
        bars,
        layout(
            barmode="stack",
            bargap=0,
            modebar={"orientation": "v"},
            height=380 + 12 * len(series),
            margin={"l": 60, "r": 20, "t": 40, "b": 60},
            legend={"orientation": "h", "y": 1.1, "yanchor": "bottom", "traceorder": "normal"},
            xaxis={"type": "category"},
            yaxis={"title": "share of events", "tickformat": ".0%", "range": [0, 1]},
            shapes=[
                {"type": "line", "xref": "x", "yref": "paper", "x0": month, "x1": month, "y0": 0,
                 "y1": 1, "line": {"width": 2, "dash": "dot", "color": "#222222"}}
                for month in marks
            ],
            annotations=[
                {"xref": "x", "yref": "paper", "x": month, "y": 1.0, "yanchor": "bottom",
                 "showarrow": False, "text": str(len(texts)), "hovertext": "<br>".join(texts),
                 "font": {"color": "#d14343", "size": 11}}
                for month, texts in marks.items()
            ],
        ),
    )  # fmt: skip


def _marks(changes: Sequence[FieldChange], axis: list[str]) -> dict[str, list[str]]:
    """By month, the changes in it, for a label."""
    marks: dict[str, list[str]] = {}
    for change in changes:
        at = change.at.recorded_at
        month = at.isoformat()[:7] if isinstance(at, datetime) else None
        if month in axis:
            marks.setdefault(month, []).append(label(f"{change.kind} {change.path}"))
    return dict(list(marks.items())[:_MARKS])
