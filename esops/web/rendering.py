"""Templates of the pages: what they can use, and the parts that are sent again when they change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from esops import __version__
from esops.escaping import visible
from esops.page import environment
from esops.term import duration, to_json

STATIC = {"app.css": "text/css", "app.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""The files that pages load, and their types."""
_NOTHING = "\u2013"
"""What stands where nothing is known: a dash."""


@cache
def templates() -> Environment:
    """The environment of all pages."""
    made = environment()
    made.filters["ago"] = _ago
    number = made.filters["number"]
    made.filters["number"] = lambda value: _NOTHING if value is None else number(value)
    made.filters["duration"] = lambda value: _NOTHING if value is None else duration(value)
    made.filters["json"] = lambda value: to_json(value, indent=True)
    made.filters["short"] = _short
    made.globals["static"] = {name: f"/static/{name}?{_digest(name)}" for name in STATIC}
    made.globals["esops"] = __version__
    return made


@cache
def static_file(name: str) -> bytes:
    """A file that pages load."""
    return files("esops.web").joinpath("static", name).read_bytes()


def _digest(name: str) -> str:
    return hashlib.sha256(static_file(name)).hexdigest()[:12]


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template of `pages/web/` as text."""
    return templates().get_template(f"web/{template}").render(values)


def page(
    request: Request, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A whole page as the answer to a request."""
    return HTMLResponse(render(template, {**common(request), **values}), status)


def common(request: Request) -> dict[str, Any]:
    """What every page knows."""
    site = request.app.state.site
    return {
        "root": site.options.root,
        "path": request.url.path,
        "controls": site.options.allow_control,
        "login": site.sessions.needed,
        "form_token": site.sessions.form_token,
        "config": site.config.path.name,
        "config_changed": site.config_changed,
        "stores": list(site.config.stores),
        "now": datetime.now(UTC),
    }


def _ago(value: Any) -> str | Markup:
    """A time, which the page's script turns into how long ago it was."""
    if value is None:
        return _NOTHING
    if not isinstance(value, datetime):
        return str(value)
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S} UTC"
    )


def _short(value: Any, most: int = 40) -> str | Markup:
    """A long name with its middle left out, and the whole of it where the pointer rests."""
    text = visible(str(value))
    if len(text) <= most:
        return text
    keep = (most - 1) // 2
    return Markup('<span title="{}">{}…{}</span>').format(text, text[:keep], text[-keep:])
