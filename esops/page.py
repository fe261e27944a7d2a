"""A result as one HTML file that needs no network and is readable in light and dark.

Templates are in `pages/`. Whatever comes from events (names of streams, types, ids) is escaped, and
a content security policy in the file keeps it from fetching or sending anything.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from esops import __version__
from esops.escaping import visible, visible_lines
from esops.moments import Moment

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from jinja2 import Environment

COLOURS = ("#2a78d6", "#1f9d57", "#c9820a", "#a346b8", "#d14343", "#0f9aa8", "#7a6ff0", "#8a8f3c")
"""Colours of categories. A reader can distinguish all of them, on white and on black."""


def page(template: str, title: str, figures: Mapping[str, go.Figure], **values: Any) -> str:
    """Render a template of `pages/` as an HTML document.

    `figures`: by the id of the element that each is drawn in. `values`: the template's variables.
    """
    # to_json turns numpy arrays and times into what the browser takes.
    drawn = {name: json.loads(figure.to_json(validate=False)) for name, figure in figures.items()}
    return (
        environment()
        .get_template(template)
        .render(
            title=title,
            figures=drawn,
            plotly=_plotly() if drawn else "",
            made_at=datetime.now(UTC),
            esops=__version__,
            **values,
        )
    )


def environment() -> Environment:
    """A new environment of jinja over `pages/`, with what all templates use."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from esops.term import duration

    made = Environment(
        loader=PackageLoader("esops", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        # What autoescape leaves as it is: characters that turn the text around.
        finalize=lambda value: visible_lines(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = _number
    made.filters["time"] = _time
    made.filters["duration"] = duration
    return made


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def label(text: str) -> str:
    """A text for one of plotly's labels, which interpret some HTML."""
    return html.escape(visible(text), quote=False)


def layout(**more: Any) -> dict[str, Any]:
    """The layout that all plots share. The page itself sets what differs between light and dark."""
    return {
        "template": "none",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 60, "r": 20, "t": 10, "b": 45},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": list(COLOURS),
        **more,
    }


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}"


def _time(value: Moment | None) -> str:
    return "-" if value is None else f"{value:%Y-%m-%d %H:%M}"
