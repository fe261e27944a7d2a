"""What is sent by a form: the login, jobs that cost something, and controls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, get_args
from urllib.parse import parse_qsl, quote

from starlette.requests import Request
from starlette.responses import Response

from esops.errors import EsopsError
from esops.rebuild.overview import describe
from esops.web import guard, questions
from esops.web.controls import LIMITS, PLANNED, CommandResult, Control, ControlName
from esops.web.jobs import Job
from esops.web.pages import problem_page, site_of, to
from esops.web.rendering import page
from esops.web.site import Site
from esops.web.threads import in_thread

_LONGEST = 16_384
"""Bytes of a form."""
_AFTER_WRONG_TOKEN = 1.0
_QUICK = 1.5
_JOB_STATEMENT = 900.0
"""Seconds that a statement of a job may take."""

Fields = Mapping[str, str]
Handler = Callable[[Request, Fields], Awaitable[Response]]
_guesses = asyncio.Lock()


async def fields_of(request: Request) -> Fields | None:
    """The fields of a form; None where it is too long or no form."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST:
            return None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        return None


def form(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler of a form that was made by one of these pages: it has this process's token."""

    async def handle(request: Request) -> Response:
        fields = await fields_of(request)
        if fields is None:
            return problem_page(request, "this is no form of these pages", None, 400)
        if not guard.same(fields.get("form_token", ""), site_of(request).sessions.form_token):
            return problem_page(
                request,
                "refused: this form is not of this server, or it has been restarted since",
                "Open the page again.",
                403,
            )
        return await handler(request, fields)

    return handle


async def ask_login(request: Request) -> Response:
    """The page that asks for the token."""
    if not site_of(request).sessions.needed:
        return to(request, "/")
    return page(request, "login.html.j2", {"wrong": False})


async def log_in(request: Request, fields: Fields) -> Response:
    """Begin a session for whoever knows the token."""
    site = site_of(request)
    value = site.sessions.log_in(fields.get("token", ""))
    if value is None:
        # One answer a second to all who are wrong: nobody guesses quickly, and whoever knows it
        # need not wait for those who do not.
        async with _guesses:
            await asyncio.sleep(_AFTER_WRONG_TOKEN)
        return page(request, "login.html.j2", {"wrong": True}, 403)
    answer = to(request, "/")
    public = site.options.public
    answer.set_cookie(
        guard.COOKIE,
        value,
        max_age=12 * 3600,
        path=site.options.root or "/",
        secure=public is not None and public.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return answer


async def log_out(request: Request, _: Fields) -> Response:
    """End a session."""
    site = site_of(request)
    site.sessions.log_out(guard.cookie_of(request.headers))
    answer = to(request, "/login")
    answer.delete_cookie(guard.COOKIE, path=site.options.root or "/")
    return answer


async def audit(request: Request, fields: Fields) -> Response:
    """Begin an audit."""
    site = site_of(request)
    store = site.config.store(fields.get("store") or None)[0]
    category = fields.get("category", "").strip()

    async def run(job: Job) -> Mapping[str, Any]:
        return await in_thread(
            lambda: questions.audit(site.config, store, category, job.say),
            statement_limit=_JOB_STATEMENT,
        )

    title = f"Audit of {store}" + (f", category {category}" if category else "")
    back = f"/audit?store={quote(store)}"
    return await _begun(request, site.jobs.begin(title, "audit", back, run))


async def trace(request: Request, fields: Fields) -> Response:
    """Begin a search that reads many events."""
    site = site_of(request)
    store = site.config.store(fields.get("store") or None)[0]
    sought, by = fields.get("q", "").strip(), fields.get("by", "auto")

    async def run(_: Job) -> Mapping[str, Any]:
        found = await in_thread(
            lambda: questions.trace(site.config, store, by, sought, scan=True),
            statement_limit=_JOB_STATEMENT,
        )
        return {"found": found, "store": store, "q": sought}

    back = f"/trace?q={quote(sought)}&by={quote(by)}&store={quote(store)}"
    return await _begun(request, site.jobs.begin(f"Trace of {sought}", "trace", back, run))


async def plan(request: Request, fields: Fields) -> Response:
    """What a control would do, and the form that confirms it."""
    site = site_of(request)
    control = _control(request, fields)
    if control is None:
        return _not_allowed(request)
    planned: CommandResult | None = None
    refused: EsopsError | None = None
    works = None
    try:
        control.arguments()
        if control.name in PLANNED:
            planned = await site.commands.plan(control)
        else:
            found = await site.ask(lambda: describe(site.config, control.projection))
            works = {key: found[key] for key in ("paused", "limits", "unfinished", "versions")}
    except EsopsError as error:
        refused = error
    values = {
        "control": control,
        "planned": planned,
        "refused": refused,
        "works": works,
        "fields": {key: value for key, value in fields.items() if key in ("to", *LIMITS)},
        "seen": _seen(planned),
    }
    return page(request, "confirm.html.j2", values, 200 if refused is None else 409)


async def perform(request: Request, fields: Fields) -> Response:
    """Do what a control says, once the projection's name is typed."""
    site = site_of(request)
    control = _control(request, fields)
    if control is None:
        return _not_allowed(request)
    if fields.get("confirm", "").strip() != control.projection:
        return problem_page(
            request,
            f"nothing was changed: the name that was typed is not {control.projection}",
            "Go back, and type the projection's name as it is shown.",
            400,
        )
    back = f"/projections/{quote(control.projection, safe='')}"
    run = partial(_perform, site, control, fields.get("seen", ""))
    return await _begun(request, site.jobs.begin(control.title, "control", back, run, "control"))


async def _perform(site: Site, control: Control, seen: str, job: Job) -> Mapping[str, Any]:
    if control.name in PLANNED:
        # Somebody else may have switched since the plan was shown.
        now = await site.commands.plan(control)
        if _seen(now) != seen:
            raise EsopsError(
                f"nothing was changed: {control.projection} is not as it was when the plan was "
                "shown",
                hint="Look at the plan again.",
            )
    done = await site.commands.perform(control, job)
    await site.readings.again()
    return {
        "control": control,
        "done": done.result,
        "command": control.in_words(),
    }


def _seen(planned: CommandResult | None) -> str:
    """What a plan says would change, so that it can be compared when it is confirmed."""
    if planned is None:
        return ""
    return "{from_version} to {to_version}".format_map(
        {"from_version": None, "to_version": None, **planned.result}
    )


def _control(request: Request, fields: Fields) -> Control | None:
    """What is asked for; None where controls are not allowed, or there is no such control."""
    site, asked = site_of(request), request.path_params["control"]
    name: ControlName | None = next((each for each in get_args(ControlName) if each == asked), None)
    if not site.options.allow_control or name is None:
        return None
    projection = request.path_params["name"]
    site.config.projection(projection)
    return Control(name, projection, fields)


def _not_allowed(request: Request) -> Response:
    return problem_page(
        request,
        "these pages only show things",
        "Start them with: esops serve --allow-control",
        403,
    )


async def _begun(request: Request, job: Job) -> Response:
    await site_of(request).jobs.finished(job, _QUICK)
    return to(request, f"/jobs/{job.id}")
