"""Who may ask what: the names that the server answers to, the login, and what browsers are told."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from esops.web.options import ServeOptions

COOKIE = "esops_session"
_HOURS = 12
_MOST_SESSIONS = 200
_OPEN = ("/login", "/health")
"""Paths that need no login; and the style sheet, which the login page uses."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: a browser would then send no origin with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Sessions:
    """Who has logged in, and the token that each form of this process carries."""

    def __init__(self, token: str | None) -> None:
        """With a token, nobody is logged in yet; without one, nobody needs to be."""
        self._token = token
        self._ends: dict[str, float] = {}
        self.form_token = secrets.token_urlsafe(24)
        """Other sites cannot read a page from here, and so do not know it (CSRF)."""

    @property
    def needed(self) -> bool:
        """Whether a login is asked for."""
        return self._token is not None

    def log_in(self, given: str) -> str | None:
        """The value of a new session's cookie; None where the token is another one."""
        if self._token is None or not same(given.strip(), self._token):
            return None
        now, value = time.monotonic(), secrets.token_urlsafe(32)
        self._ends = {key: end for key, end in self._ends.items() if end > now}
        while len(self._ends) >= _MOST_SESSIONS:
            del self._ends[next(iter(self._ends))]
        self._ends[_key(value)] = now + _HOURS * 3600
        return value

    def knows(self, cookie: str | None) -> bool:
        """Whether a cookie is that of a session which has not ended."""
        if not self.needed:
            return True
        end = self._ends.get(_key(cookie)) if cookie else None
        return end is not None and end > time.monotonic()

    def log_out(self, cookie: str | None) -> None:
        """Forget a session."""
        if cookie:
            self._ends.pop(_key(cookie), None)


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are equal, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


class Guard:
    """Stands before all pages: refuses what they must not answer, and adds the headers."""

    def __init__(self, app: ASGIApp, options: ServeOptions, sessions: Sessions) -> None:
        """Guard an application."""
        self._app, self._options, self._sessions = app, options, sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            # The lifespan; and websockets, of which there are none here.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        scope = self._without_root(scope)
        refused = self._refused(scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await (refused or self._app)(scope, receive, with_headers)

    def _without_root(self, scope: Scope) -> Scope:
        """The request without the path of `--public-url`, which some proxies leave on."""
        root, path = self._options.root, scope["path"]
        if root and (path == root or path.startswith(f"{root}/")):
            return {**scope, "path": path[len(root) :] or "/"}
        return scope

    def _refused(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._options.answers_to(host):
            return _sentence(
                "refused: this server does not answer to that name. Open it by its address, or "
                "start it with --public-url.",
                421,
            )
        get = scope["method"] in ("GET", "HEAD")
        # A link that somebody follows is fine; a page that loads things from here is not.
        foreign = headers.get("sec-fetch-site") == "cross-site"
        if get and foreign and headers.get("sec-fetch-mode") != "navigate":
            return _sentence("refused: another site asked for this", 403)
        if not get and scope["method"] != "POST":
            return _sentence("refused: only GET and POST", 405)
        if not get and not self._options.is_own_origin(headers.get("origin", ""), host):
            return _sentence("refused: this form was not sent from one of these pages", 403)
        return self._unknown(scope, headers, get=get)

    def _unknown(self, scope: Scope, headers: Headers, *, get: bool) -> Response | None:
        """What somebody gets who has not logged in."""
        path = scope["path"]
        if path in _OPEN or path.startswith("/static/"):
            return None
        if self._sessions.knows(cookie_of(headers)):
            return None
        if get and path != "/live":
            return RedirectResponse(f"{self._options.root}/login", 303)
        return _sentence("log in first", 401)


def cookie_of(headers: Headers) -> str | None:
    """The value of the session's cookie."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _sentence(text: str, status: int) -> Response:
    return PlainTextResponse(f"{text}\n", status)
