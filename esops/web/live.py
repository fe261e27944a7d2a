"""Server-sent events: a page's part is sent again whenever it has changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from esops.errors import EsopsError
from esops.web.rendering import common, render
from esops.web.site import Site
from esops.web.views import projection_view, status_view

_HEARTBEAT = 15.0
"""Seconds without news after which a line is sent, so that a page that is gone is noticed."""
_LOOK_AGAIN = 5.0
"""The same while a store does not answer: the page says for how long."""


def part(site: Site, request: Request, name: str, key: str) -> str | None:
    """A part of a page as HTML, made once for all who look; None where there is no such part."""
    cached = f"{name} {key}"
    revision = site.readings.revision
    hangs = site.readings.hangs()
    known = site.rendered.get(cached)
    if known is not None and known[0] == revision and not hangs:
        return known[1]
    values = _values(site, name, key)
    if values is None:
        return None
    text = render(f"parts/{name}.html.j2", {**common(request), **values})
    if len(site.rendered) > 100:
        site.rendered.clear()
    site.rendered[cached] = revision, text
    return text


def _values(site: Site, name: str, key: str) -> dict[str, Any] | None:
    if name == "status":
        return status_view(site.readings)
    if name == "projection" and key in site.config.projections:
        return projection_view(site.readings, key)
    if name == "job" and key.isdecimal() and len(key) < 10 and (job := site.jobs.get(int(key))):
        return {"job": job}
    return None


async def live(request: Request) -> Response:
    """The stream of one part of a page."""
    site: Site = request.app.state.site
    name, key = request.query_params.get("part", ""), request.query_params.get("key", "")
    if _values(site, name, key) is None:
        return PlainTextResponse("there is no such part of a page\n", 404)
    stack = AsyncExitStack()
    try:
        await stack.enter_async_context(site.live_page())
    except EsopsError as error:
        return PlainTextResponse(f"{error.message}\n", 503, {"Retry-After": "30"})
    return StreamingResponse(
        _sent(site, request, (name, key), stack),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _sent(
    site: Site, request: Request, what: tuple[str, str], stack: AsyncExitStack
) -> AsyncIterator[bytes]:
    before = None
    seen = -1
    async with stack:
        yield b"retry: 3000\n\n"
        while not site.closing.is_set():
            text = part(site, request, *what)
            seen = site.readings.revision
            if text is None:
                return
            sent: dict[str, Any] = {"now": datetime.now(UTC).isoformat()}
            if text != before:
                before = sent["html"] = text
            yield b"data: " + orjson.dumps(sent) + b"\n\n"
            if what[0] == "job" and _is_over(site, what[1]):
                yield b"event: over\ndata: {}\n\n"
                return
            await site.readings.news(seen, _LOOK_AGAIN if site.readings.hangs() else _HEARTBEAT)


def _is_over(site: Site, key: str) -> bool:
    job = site.jobs.get(int(key))
    return job is None or job.over
