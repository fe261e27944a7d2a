"""The application: which function answers which address."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from esops.errors import EsopsError
from esops.web import forms, pages
from esops.web.guard import Guard
from esops.web.live import live
from esops.web.site import Site

ROUTES = [
    Route("/", pages.status),
    Route("/projections/{name}", pages.projection),
    Route("/audit", pages.audit),
    Route("/trace", pages.trace),
    Route("/stream", pages.stream),
    Route("/event", pages.event),
    Route("/dead-letters", pages.dead_letters),
    Route("/history", pages.history),
    Route("/jobs/{number:int}", pages.job),
    Route("/live", live),
    Route("/health", pages.health),
    Route("/static/{name}", pages.static),
    Route("/login", forms.ask_login),
    Route("/login", forms.form(forms.log_in), methods=["POST"]),
    Route("/logout", forms.form(forms.log_out), methods=["POST"]),
    Route("/audit", forms.form(forms.audit), methods=["POST"]),
    Route("/trace", forms.form(forms.trace), methods=["POST"]),
    Route("/projections/{name}/{control}/plan", forms.form(forms.plan), methods=["POST"]),
    Route("/projections/{name}/{control}", forms.form(forms.perform), methods=["POST"]),
]


def make_app(site: Site) -> Starlette:
    """The application of a site."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await site.end()

    app = Starlette(
        routes=ROUTES,
        middleware=[Middleware(Guard, options=site.options, sessions=site.sessions)],
        exception_handlers={404: pages.nothing_there, EsopsError: pages.failed, 500: pages.defect},
        lifespan=lifespan,
    )
    app.state.site = site
    return app
