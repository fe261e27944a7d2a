"""Databases for tests: an empty one each, on one server for the whole run.

The server is an embedded Postgres, or any other with ESOPS_TEST_PG_DSN: a superuser's, since
databases and roles are made there. Run such tests in one process (`-n 0`): roles, locks and
transaction ids belong to a whole server.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from esops.demo.server import EmbeddedServer
from tests.support.folders import server_folder

ELSEWHERE = os.environ.get("ESOPS_TEST_PG_DSN", "")
QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_wal_size": "'256MB'",
    "log_min_messages": "fatal",
}
"""What makes a server quick that need not survive a crash."""
COPY = "" if ELSEWHERE else " STRATEGY file_copy"
"""How a database is copied: through the log, page by page, it costs the server twice as much. An older
server knows no strategy.
"""
_numbers = itertools.count(1)
_admins: dict[str, psycopg.Connection] = {}
"""By the address of the server that all tests share: a connection costs it as much as a database."""


class GivenServer:
    """A server that somebody else runs."""

    def dsn(self, database: str = "", **more: str) -> str:
        return make_conninfo(ELSEWHERE, **({"dbname": database} if database else {}), **more)


@contextmanager
def embedded(settings: dict[str, str] | None = None) -> Iterator[EmbeddedServer]:
    """An embedded server that runs."""
    with server_folder() as folder:
        server = EmbeddedServer(folder / "pg", settings)
        try:
            yield server.start()
        finally:
            server.remove()


@pytest.fixture(scope="session")
def server():
    with ExitStack() as stack:
        server = GivenServer() if ELSEWHERE else stack.enter_context(embedded(QUICK))
        _admins[server.dsn()] = psycopg.connect(server.dsn(), autocommit=True)
        yield server
        _admins.pop(server.dsn()).close()


@pytest.fixture
def own_server():
    """A server of the test's own, to be restarted and crashed."""
    if ELSEWHERE:
        pytest.skip("needs a server of its own; ESOPS_TEST_PG_DSN gives one that others use")
    with embedded() as server:
        yield server


@contextmanager
def database(server, template: str = "template1") -> Iterator[str]:
    """A database, as a copy of another, and how to connect to it."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    as_administrator(server, f"CREATE DATABASE {name} TEMPLATE {template}{COPY}")
    try:
        yield server.dsn(name)
    finally:
        as_administrator(server, f"DROP DATABASE {name} WITH (FORCE)")


def as_administrator(server, statement: str) -> None:
    """Execute a statement that makes or drops a database."""
    admin = _admins.get(server.dsn())
    if admin is not None and not admin.closed:
        admin.execute(statement, prepare=False)
        return
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(statement)


@pytest.fixture
def dsn(server):
    with database(server) as dsn:
        yield dsn


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection
