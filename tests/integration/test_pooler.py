"""A real pgbouncer before the database: one that gives no session is refused before anything is set,
and one that gives sessions is used.
"""

from __future__ import annotations

import threading
from contextlib import closing

import psycopg
import pytest

from esops.errors import PooledSession
from esops.postgres import connection as connections
from esops.postgres.connection import connect
from esops.stores.postgres.bulk import BulkReader
from tests.integration.test_health import findings
from tests.support import shop
from tests.support.pgbouncer import pgbouncer
from tests.support.soak import rounds


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(connections, "_servers", {})
    monkeypatch.setattr(connections, "_pooled", set())


def leaked(dsn: str, connection) -> list[str]:
    """What stayed behind in the pool's sessions."""
    found = []
    with psycopg.connect(dsn, autocommit=True) as pooled:
        for name, value in (("timezone", "Asia/Tokyo"), ("row_security", "on"), ("esops.path", "")):
            row = pooled.execute("SELECT coalesce(current_setting(%s, true), '')", (name,))
            if row.fetchone()[0] != value:
                found.append(name)
    locks = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return found + ["advisory lock"] * locks.fetchone()[0]


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("transaction", {"default_pool_size": "1"}),
        ("transaction", {"default_pool_size": "20"}),
        ("transaction", {"default_pool_size": "20", "server_round_robin": "1"}),
        ("statement", {"default_pool_size": "2"}),
    ],
)
def test_transaction_pooling_is_refused_and_nothing_leaks(project, dsn, connection, mode, settings):
    shop.make(dsn, events=20)
    connection.execute(f"ALTER DATABASE {connection.info.dbname} SET timezone = 'Asia/Tokyo'")
    with pgbouncer(dsn, mode, **settings) as pooled:
        # Several server processes, so that there is a choice.
        if mode == "transaction" and settings["default_pool_size"] != "1":
            several = [psycopg.connect(pooled) for _ in range(5)]
            for each in several:
                each.execute("SELECT 1")
            for each in several:
                each.close()
        shop.configure(project, pooled)
        for command in (
            ("events",),
            ("status",),
            ("rebuild", "cart_summary", "--blue-green"),
            ("run", "--until-caught-up"),
        ):
            result = project.run(*command)
            assert result.code == (1 if command == ("status",) else 6), result
            assert "pooler in transaction mode" in result.out + result.err
        assert "ESOPS-D044" in findings(project)
        with closing(BulkReader(pooled)) as bulk, pytest.raises(PooledSession):
            list(bulk.read(iter(["SELECT 1"])))
        assert leaked(pooled, connection) == []


def test_transaction_pooling_is_noticed_under_load(dsn, connection):
    """While the application's transactions take the processes from each other."""
    with pgbouncer(dsn, "transaction", default_pool_size="3") as pooled:
        stop = threading.Event()

        def work() -> None:
            with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as busy:
                while not stop.is_set():
                    busy.execute("SELECT pg_sleep(0.002)")

        workers = [threading.Thread(target=work) for _ in range(6)]
        for each in workers:
            each.start()
        try:
            for _ in range(rounds(5, 200)):
                with pytest.raises(PooledSession):
                    connect(pooled, "test")
        finally:
            stop.set()
            for each in workers:
                each.join()


def test_session_pooling_works(project, dsn, connection):
    shop.make(dsn, events=200)
    with pgbouncer(dsn, "session", default_pool_size="20") as pooled:
        shop.configure(project, pooled)
        project.ok("rebuild", "cart_summary", "--blue-green", "--workers", "2")
        project.ok("rebuild", "cart_summary", "--blue-green")
        project.ok("run", "--until-caught-up")
        assert len(project.ok("events", "--output", "ndjson").out.splitlines()) == 200
        assert "ESOPS-D044" not in findings(project)
        # Options in the address are the pooler's to refuse, and the error says what to do.
        shop.configure(project, f"{pooled} options='-c search_path=shop'")
        refused = project.run("events")
        assert refused.code == 3
        assert "Leave `options` out" in refused.err
