"""Runs the pages until a signal ends them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from esops.config import Config
from esops.errors import UsageError
from esops.web.app import make_app
from esops.web.options import ListenAddress, ServeOptions, check, listen
from esops.web.site import Site

_GRACE = 5
"""Seconds that open requests get at the end."""
_MOST_CONNECTIONS = 300
"""Connections that are answered at a time; more get a 503."""


class _Server(uvicorn.Server):
    """Tells open pages that the server ends, so that it need not wait for them."""

    def __init__(self, config: uvicorn.Config, site: Site) -> None:
        super().__init__(config)
        self._site, self._loop = site, asyncio.get_running_loop()
        self._closing: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end: the first signal does, a second Ctrl-C ends at once."""
        self._loop.call_soon_threadsafe(self._close_pages)
        super().handle_exit(sig, frame)

    def _close_pages(self) -> None:
        self._closing = self._closing or self._loop.create_task(self._site.close())


def serve(
    config: Config, options: ServeOptions, say: Callable[[str], None] = lambda _: None
) -> None:
    """Serve the pages until SIGTERM or SIGINT; `say` gets the address when they can be opened.

    Raises UsageError for an address that cannot be listened on, for one that other machines can
    reach without a token, and for a configuration without a store.
    """
    if not config.stores:
        raise UsageError(
            f"{config.path}: the configuration names no store, so there is nothing to look at",
            hint=f"Add a section [stores.NAME] to {config.path.name}: esops docs configuration",
        )
    check(options)
    with listen(options.address) as made:
        address = ListenAddress(options.address.host, made.getsockname()[1])
        public = options.public
        say(f"http://{address}/" if public is None else f"{public.origin}{public.path}/")
        asyncio.run(_serve(config, options, made))


async def _serve(config: Config, options: ServeOptions, made: socket.socket) -> None:
    site = Site(config, options)
    server = _Server(
        uvicorn.Config(
            make_app(site),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            limit_concurrency=_MOST_CONNECTIONS,
            # A proxy's word about the browser's address is not needed: nothing depends on it.
            proxy_headers=False,
        ),
        site,
    )
    await server.serve(sockets=[made])
