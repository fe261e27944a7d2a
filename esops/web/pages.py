"""The pages, one function each. None of them changes anything but by a form (forms.py)."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from esops.errors import EsopsError
from esops.rebuild import under_way
from esops.web import questions
from esops.web.guard import HEADERS
from esops.web.live import part
from esops.web.rendering import STATIC, page, static_file
from esops.web.site import Site
from esops.web.views import projection_view

_OVER = ("retired", "aborted")


def site_of(request: Request) -> Site:
    """The server's state."""
    found: Site = request.app.state.site
    return found


async def status(request: Request) -> Response:
    """Everything on one page."""
    site = site_of(request)
    await site.readings.fresh()
    return page(request, "status.html.j2", {"part": part(site, request, "status", "")})


async def projection(request: Request) -> Response:
    """One projection: its versions, its lag over time, its rebuild, its check, its controls."""
    site, name = site_of(request), request.path_params["name"]
    site.config.projection(name)
    await site.readings.fresh()
    described: dict[str, Any] = {"versions": [], "steps": [], "actions": []}
    problem = None
    try:
        described = await site.ask(lambda: questions.versions(site.config, name))
    except EsopsError as error:
        problem = error.message
    view = projection_view(site.readings, name)
    waits = described.get("unfinished")
    values = {
        **view,
        "part": part(site, request, "projection", name),
        "settings": site.config.projections[name],
        "versions": described["versions"][::-1],
        "older": [each for each in described["versions"][::-1] if each["state"] in _OVER],
        "steps": described["steps"],
        "actions": described["actions"],
        "paused": described.get("paused"),
        "limits": described.get("limits", {}),
        "waits": under_way.in_words(waits, name) if waits else None,
        "problem": problem,
    }
    return page(request, "projection.html.j2", values)


async def audit(request: Request) -> Response:
    """The form for an audit, which says what it costs."""
    site = site_of(request)
    store = _store(request)
    values: dict[str, Any] = {"store": store, "cost": None, "problem": None}
    try:
        values["cost"] = await site.ask(lambda: questions.cost(site.config, store))
    except EsopsError as error:
        values["problem"] = error.message
    return page(request, "audit.html.j2", values)


async def trace(request: Request) -> Response:
    """A search, and what it found where that costs little."""
    site = site_of(request)
    sought = request.query_params.get("q", "").strip()
    asked = request.query_params.get("by", "auto")
    by = asked if asked in ("event", "correlation", "stream") else "auto"
    store = _store(request)
    values: dict[str, Any] = {"q": sought, "by": by, "store": store, "found": None}
    values |= {"problem": None, "cost": None}
    if sought:
        try:
            values["found"] = await site.ask(
                lambda: questions.trace(site.config, store, by, sought)
            )
        except EsopsError as error:
            values["problem"] = error
            if error.exit_code == 6:
                values["cost"] = await site.ask(lambda: questions.size(site.config, store))
    return page(request, "trace.html.j2", values)


async def stream(request: Request) -> Response:
    """The events of a stream, without their payloads."""
    site, store = site_of(request), _store(request)
    name = request.query_params.get("name", "")
    after = _number(request, "after")  # none: some stores count from 0
    found = await site.ask(lambda: questions.stream(site.config, store, name, after))
    return page(request, "stream.html.j2", {"name": name, "store": store, **found})


async def event(request: Request) -> Response:
    """One event; its payload only where it is asked for."""
    site, store = site_of(request), _store(request)
    name, version = request.query_params.get("stream", ""), _number(request, "version") or 0
    events = await site.ask(lambda: questions.event(site.config, store, name, version))
    payload = request.query_params.get("payload") == "yes"
    values = {"events": events, "payload": payload, "store": store, "name": name}
    status_code = 200 if events else 404
    return page(request, "event.html.j2", {**values, "version": version}, status_code)


async def dead_letters(request: Request) -> Response:
    """Events that a projection could not apply and skipped."""
    site, name = site_of(request), request.query_params.get("projection")
    names = [name] if name else list(site.config.projections)
    if name:
        site.config.projection(name)
    rows, problems = await site.ask(lambda: questions.dead_letters(site.config, names))
    values = {"rows": rows, "problems": problems, "name": name, "most": questions.SHOWN_EVENTS}
    return page(request, "dead_letters.html.j2", values)


async def history(request: Request) -> Response:
    """Who did what, and how it ended."""
    site, name = site_of(request), request.query_params.get("projection")
    found = await site.ask(lambda: questions.history(site.config, name or None))
    return page(request, "history.html.j2", {"name": name, **found})


async def job(request: Request) -> Response:
    """A job that runs, or what it found."""
    site, number = site_of(request), request.path_params["number"]
    found = site.jobs.get(number)
    if found is None:
        return problem_page(
            request, f"job {number} is not remembered", "The server keeps the last ones.", 404
        )
    values = {"job": found, "part": part(site, request, "job", str(number))}
    return page(request, "job.html.j2", values)


async def health(_: Request) -> Response:
    """That the server answers; nothing of what it knows."""
    return PlainTextResponse("ok\n")


async def static(request: Request) -> Response:
    """A style sheet, a script, a picture of the package."""
    name = request.path_params["name"]
    if name not in STATIC:
        return PlainTextResponse("there is no such file\n", 404)
    # The name has a digest behind it, which changes with the file.
    headers = {"Cache-Control": "public, max-age=31536000, immutable"}
    return Response(static_file(name), media_type=STATIC[name], headers=headers)


async def nothing_there(request: Request, _: Exception) -> Response:
    """What an unknown address gets."""
    return problem_page(request, "there is no such page", None, 404)


async def failed(request: Request, error: Exception) -> Response:
    """An error of esops as a page: the sentence and the hint, as a command prints them."""
    assert isinstance(error, EsopsError)
    status_code = {2: 404, 3: 503, 4: 503, 6: 409}.get(error.exit_code, 500)
    return problem_page(request, error.message, error.hint, status_code)


async def defect(request: Request, error: Exception) -> Response:
    """An error that should not be: the page says so, and the server's log has the traceback."""
    answer = problem_page(
        request,
        f"a defect in esops: {type(error).__name__}",
        "The log of `esops serve` says more. Report it, please.",
        500,
    )
    answer.headers.update(HEADERS)
    return answer


def problem_page(request: Request, text: str, hint: str | None, status_code: int) -> Response:
    """A page that says what is wrong."""
    return page(request, "problem.html.j2", {"text": text, "hint": hint}, status_code)


def to(request: Request, path: str) -> Response:
    """Send the browser to another page."""
    return RedirectResponse(f"{site_of(request).options.root}{path}", 303)


def _store(request: Request) -> str:
    """The store that is asked for; the only one, or the first, where none is named."""
    config = site_of(request).config
    given = request.query_params.get("store") or next(iter(config.stores))
    return config.store(given)[0]


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
