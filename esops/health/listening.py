"""An address to listen on, and a server there that answers a few paths with JSON."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from esops.errors import UsageError
from esops.ports import listen_address

_PATIENCE = 5
"""Seconds that a client may take to say what it wants."""

Answer = Callable[[], tuple[bool, Mapping[str, Any]]]
"""Says whether all is well (200, otherwise 503), and the document."""


class _HealthServer(ThreadingHTTPServer):
    daemon_threads = True
    # Where five others wait, the system lets the next one try again after a second: a probe's
    # timeout.
    request_queue_size = 128
    # A port that another process listens on must be an error, also where that one allows to share.
    allow_reuse_port = False
    answers: Mapping[str, Answer]

    def __init__(self, host: str, port: int, answers: Mapping[str, Answer]) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        self.answers = answers
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without a look-up of the host's name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nobody's trouble."""


class _Handler(BaseHTTPRequestHandler):
    server: _HealthServer
    timeout = _PATIENCE
    server_version, sys_version = "esops", ""

    def do_GET(self) -> None:
        """Answer one of the paths."""
        self._answer(body=True)

    def do_HEAD(self) -> None:
        """The same without the document."""
        self._answer(body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe every few seconds is no news."""

    def _answer(self, *, body: bool) -> None:
        answer = self.server.answers.get(self.path.partition("?")[0])
        if answer is None:
            status, document = HTTPStatus.NOT_FOUND, {"paths": sorted(self.server.answers)}
        else:
            well, response = answer()
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            document = dict(response)
        data = json.dumps(document, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


class HealthPort:
    """A port that is taken from the moment on in which this is made; answers come later."""

    def __init__(self, option: str, text: str) -> None:
        """Raises UsageError where the address cannot be read, or cannot be had."""
        host, port = listen_address(option, text)
        try:
            self._server = _HealthServer(host, port, {})
        except OSError as error:
            raise UsageError(
                f"{option} {text}: {error.strerror or error}",
                hint="Name a port that no other process listens on, and an address of this "
                "machine.",
            ) from None
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"

    def close(self) -> None:
        """Give the port back."""
        self._server.server_close()

    @contextmanager
    def serving(self, answers: Mapping[str, Answer]) -> Iterator[None]:
        """Answer in a thread of its own, until the block ends."""
        self._server.answers = answers
        thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="esops-health", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            self._server.shutdown()
            thread.join()
            self.close()
