"""Where `esops serve` listens, under which names it answers, and who may look."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from esops.errors import UsageError
from esops.ports import parse_listen

DEFAULT_PORT = 8077
TOKEN_VARIABLE = "ESOPS_SERVE_TOKEN"  # noqa: S105 - the variable's name
_SHORTEST_TOKEN = 16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A host and a port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class PublicUrl:
    """The address by which browsers reach the pages through a reverse proxy."""

    scheme: str
    netloc: str
    path: str
    """The path below which the pages are, without a slash at its end; empty for the root."""

    @property
    def origin(self) -> str:
        """What a browser sends as the origin of a form."""
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `esops serve` was started with."""

    address: ListenAddress
    token: str | None = None
    """What a person has to give before anything is shown; None where nothing is asked."""
    allow_control: bool = False
    public: PublicUrl | None = None

    @property
    def root(self) -> str:
        """The path that all links begin with."""
        return self.public.path if self.public else ""

    def answers_to(self, host: str) -> bool:
        """Whether a Host header is one of this server's names.

        A page of somebody else's site can point a name of its own at this machine, and then read
        what is here as its own (DNS rebinding); the name gives it away. An address in digits is
        nobody's name.
        """
        name = _host_of(host)
        if name is None:
            return False
        if self.public is not None and host.lower() == self.public.netloc.lower():
            return True
        if name in _LOOPBACK or name == self.address.host.lower():
            return True
        if self.address.is_loopback:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name == socket.gethostname().lower()
        return True

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether a form was sent from one of this server's pages, by its Origin header."""
        if self.public is not None and origin.lower() == self.public.origin.lower():
            return True
        try:
            return bool(host) and urlsplit(origin).netloc.lower() == host.lower()
        except ValueError:
            return False


def _host_of(header: str) -> str | None:
    """The name in a Host header, without the port; None for what is no host."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower() or None
    except ValueError:
        return None


def parse_address(text: str | None) -> ListenAddress:
    """Read `[[HOST:]PORT]`. Raises UsageError."""
    if text is None:
        return ListenAddress("127.0.0.1", DEFAULT_PORT)
    return ListenAddress(*parse_listen("serve", text))


def parse_public_url(text: str | None) -> PublicUrl | None:
    """Read `--public-url`. Raises UsageError."""
    if text is None:
        return None
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        known = None
    if not known or parts.query or parts.fragment or parts.username:
        raise UsageError(
            f"--public-url {text!r} is not the address of a page",
            hint="Write it like https://ops.example.com/esops.",
        )
    return PublicUrl(parts.scheme, parts.netloc, parts.path.rstrip("/"))


def read_token(file: Path | None) -> str | None:
    """The token, from a file or the environment; None where neither is given. Raises UsageError.

    It is never an argument: every user of the machine can read those.
    """
    where, token = f"the variable {TOKEN_VARIABLE}", os.environ.get(TOKEN_VARIABLE)
    if file is not None:
        where = f"--token-file {file}"
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise UsageError(f"{where} cannot be read: {reason}") from None
    if token is None:
        return None
    token = token.strip()
    if len(token) < _SHORTEST_TOKEN:
        raise UsageError(
            f"{where}: a token of fewer than {_SHORTEST_TOKEN} characters can be guessed",
            hint="Make one with: openssl rand -hex 24",
        )
    return token


def readable_by_others(file: Path) -> bool:
    """Whether other users of this machine can read a file."""
    return bool(file.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))


def check(options: ServeOptions) -> None:
    """Raises UsageError where pages would be shown to a network without a token."""
    if options.token is None and (options.public is not None or not options.address.is_loopback):
        what = f"{options.address} can be reached from other machines"
        if options.address.is_loopback:
            what = "--public-url lets other machines look"
        raise UsageError(
            f"{what}, and no token is set",
            hint=f"Set {TOKEN_VARIABLE}, or name a file with --token-file. Without one, only this "
            "machine may look: esops serve",
        )


def listen(address: ListenAddress) -> socket.socket:
    """A socket that listens there. Raises UsageError."""
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, number, _, where = found[0]
        made = socket.socket(family, kind, number)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this is no name of a host"
        raise UsageError(f"cannot listen on {address}: {why}") from None
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(where)
        made.listen(128)
    except OSError as error:
        made.close()
        raise UsageError(
            f"cannot listen on {address}: {error.strerror}",
            hint="Is another program there? Name another port: esops serve 8078",
        ) from None
    return made
