"""A connection whose server's machine is gone is noticed: TCP keepalives are on, and the user's own
settings win.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from esops.postgres import connection as connections
from esops.postgres.connection import connect
from esops.stores.postgres.bulk import BulkReader
from tests.support import shop

OURS = (1, 10, 5, 4)
"""On or off, seconds until the first, seconds between them, how many."""
OWN = {"keepalives_idle": "77", "keepalives_count": "3"}
OWN_WIN = (1, 77, 5, 3)


def forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # one side ends while the other is still read
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tcp(dsn) -> Iterator[str]:
    """The database over TCP: the tests' own server listens on a Unix socket only."""
    folder = Path(conninfo_to_dict(dsn).get("host", ""))
    if not folder.is_absolute():
        yield dsn
        return
    (path,) = folder.glob(".s.PGSQL.????")
    with socket.create_server(("127.0.0.1", 0)) as door:

        def accept() -> None:
            while True:
                try:
                    client, _ = door.accept()
                except OSError:
                    return
                server = socket.socket(socket.AF_UNIX)
                server.connect(str(path))
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=forward, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield make_conninfo(dsn, host="127.0.0.1", port=door.getsockname()[1])
        door.shutdown(socket.SHUT_RDWR)


def options_of(descriptor: int) -> tuple[int, ...]:
    with socket.socket(fileno=os.dup(descriptor)) as its:
        return (
            its.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            its.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
            its.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
            its.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        )


def of_bulk(address: str) -> tuple[int, ...]:
    """Of a connection of ADBC, which does not show its socket."""

    port = int(conninfo_to_dict(address).get("port", 5432))

    def there() -> set[int]:
        connected = (each for each in psutil.Process().net_connections("tcp") if each.raddr)
        return {each.fd for each in connected if each.raddr.port == port}

    before = there()
    reader = BulkReader(address)
    reader._connect()
    try:
        (descriptor,) = there() - before
        return options_of(descriptor)
    finally:
        reader.close()


def test_every_connection_has_them_and_the_users_own_win(tcp, tmp_path, monkeypatch):
    def of(address: str) -> tuple[int, ...]:
        with connect(address, "test") as connection:
            return options_of(connection.fileno())

    own = make_conninfo(tcp, **OWN)
    assert of(tcp) == OURS
    assert of(own) == OWN_WIN
    assert of(make_conninfo(tcp, keepalives="0"))[0] == 0
    assert of_bulk(tcp) == OURS
    assert of_bulk(own) == OWN_WIN
    # In a service file, which only libpq reads.
    settings = conninfo_to_dict(tcp)
    lines = [f"{name}={value}" for name, value in settings.items()]
    more = [f"{name}={value}" for name, value in OWN.items()]
    service = tmp_path / "services"
    service.write_text("\n".join(["[plain]", *lines, "[own]", *lines, *more, ""]))
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    assert of("service=plain") == OURS
    assert of("service=own") == OWN_WIN
    monkeypatch.setenv("PGSERVICE", "own")
    connections._services.clear()
    assert of("") == OWN_WIN


def test_the_connection_of_a_switch_has_them(tcp, project):
    shop.make(tcp, 20)
    shop.configure(project, tcp)
    project.patch(
        "import json, sys\n"
        "sys.path.insert(0, " + json.dumps(str(Path(__file__).parents[2])) + ")\n"
        "from esops.rebuild import switch\n"
        "from tests.integration.test_keepalives import options_of\n"
        "real = switch._attempt\n"
        "def attempt(connection, *more):\n"
        "    with open('options', 'w') as file:\n"
        "        json.dump(options_of(connection.fileno()), file)\n"
        "    return real(connection, *more)\n"
        "switch._attempt = attempt\n"
    )
    project.ok("rebuild", "--blue-green")
    assert tuple(json.loads((project.folder / "options").read_text())) == OURS
