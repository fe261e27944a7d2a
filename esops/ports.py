"""Addresses to listen at, as `--serve 9187` names them."""

from __future__ import annotations

import socket

from esops.errors import UsageError

_HIGHEST = 65_535
HERE = "127.0.0.1"
"""Where no host is named, only this machine is answered: what is served names stores."""


def parse_listen(option: str, text: str) -> tuple[str, int]:
    """The host and the port of `[HOST:]PORT`; an IPv6 address stands in brackets.

    Raises UsageError, which names the option.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdigit()) or int(port) > _HIGHEST:
        raise UsageError(
            f"{option} {text}: this is not a port",
            hint=f"Write it like 9187 or 127.0.0.1:9187; a port is a number up to {_HIGHEST}.",
        )
    return host or HERE, int(port)


def listen_address(option: str, text: str) -> tuple[str, int]:
    """The same, where the address can be listened at.

    It is tried, so that a command ends before it does anything. Raises UsageError, which names the
    option.
    """
    host, port = parse_listen(option, text)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            # As a server does it: one that ended a moment ago does not keep its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "this is no name of a host"
        raise UsageError(
            f"{option} {text}: {(why or str(error)).lower()}",
            hint="Name another port, or a host that is an address of this machine.",
        ) from None
    return host, port
