"""What `esops run` follows together dies in the middle, in every way: each event is applied once."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import psycopg
import pytest

from tests.support import shop
from tests.support.soak import rounds
from tests.support.waiting import end, kill, until

pytestmark = pytest.mark.slow
NAMES = ("first", "second", "third")
ROUNDS = rounds(2, 8)


def configure(project, dsn: str) -> None:
    text = f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "shop"\nappend = "quick"\n'
    for name in NAMES:
        text += (
            f'[projections.{name}]\npython = "shop_projections:cart_summary"\n'
            f'tables = ["{name}"]\nddl = "carts.sql"\n'
        )
    project.write("esops.toml", text)
    project.write("shop_projections.py", shop.PROJECTION)
    project.write("carts.sql", shop.DDL)


def positions(connection) -> dict[tuple[str, int], int]:
    return {
        (name, version): int(position)
        for name, version, position in connection.execute(
            "SELECT projection, version, position FROM esops.versions"
        )
    }


def check(connection) -> None:
    """Each version is the fold of exactly the events up to its checkpoint."""
    for name, version in positions(connection):
        with connection.transaction():
            (position,) = connection.execute(
                "SELECT position FROM esops.versions WHERE projection = %s AND version = %s "
                "FOR UPDATE",
                (name, version),
            ).fetchone()
            found = shop.table(connection, f"{name}__v{version}")
        assert found == shop.truth(connection, int(position))


def all_moved(connection, since: dict[tuple[str, int], int]) -> bool:
    now = positions(connection)
    return all(now[key] > position for key, position in since.items())


def sessions(connection) -> list[tuple[int, int]]:
    """Process of esops and of the server, of each session of `esops run`; not the writer's."""
    rows = connection.execute(
        "SELECT split_part(split_part(application_name, ' ', 2), ':', 2)::int, pid, "
        "split_part(application_name, ' ', 3) FROM pg_stat_activity WHERE "
        "starts_with(application_name, 'esops ')"
    ).fetchall()
    ours = {process for process, _, purpose in rows if purpose == "run"}
    return [(process, pid) for process, pid, _ in rows if process in ours]


@pytest.fixture
def shops(dsn, connection, project):
    shop.make(dsn, 500)
    configure(project, dsn)
    project.ok("rebuild", *NAMES, "--blue-green")
    project.ok("rebuild", NAMES[0], "--blue-green")
    return project


def test_a_process_that_is_killed_over_and_over(shops, dsn, connection):
    chance = random.Random(5)
    host = shops.start("run")
    try:
        with shop.Workload() as workload:
            workload.add("writer", dsn, seed=5, rate=rounds(50, 200))
            for _ in range(ROUNDS // 2):
                before = positions(connection)
                until(lambda before=before: all_moved(connection, before))
                time.sleep(chance.random() * 0.3)
                shared = until(
                    lambda: next((p for p, _ in sessions(connection) if p != host.pid), None)
                )
                os.kill(shared, signal.SIGKILL)
            before = positions(connection)
            until(lambda: all_moved(connection, before))
            assert kill(host)  # what it started ends with it
            until(lambda: not sessions(connection))
            workload.stop()
    finally:
        host.kill()
    shops.ok("run", "--until-caught-up")
    check(connection)
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    assert set(positions(connection).values()) == {last}


@pytest.mark.thorough
def test_sessions_that_are_ended_one_after_the_other(shops, dsn, connection):
    host = shops.installed.start("run")
    try:
        with shop.Workload() as workload:
            workload.add("writer", dsn, seed=7, rate=200)
            before = positions(connection)
            until(lambda: all_moved(connection, before))
            for number in range(ROUNDS):
                for _, pid in sessions(connection)[number % 2 :: 2]:
                    connection.execute("SELECT pg_terminate_backend(%s)", (pid,))
                before = positions(connection)
                until(lambda before=before: all_moved(connection, before))
                check(connection)
            workload.stop()
        (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
        until(lambda: set(positions(connection).values()) == {last})
    finally:
        _, err = end(host)
    assert host.returncode == 0
    assert "Traceback" not in err
    check(connection)


def test_a_server_that_is_restarted(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 1_000)
    configure(project, dsn)
    project.ok("rebuild", *NAMES, "--blue-green")
    host = project.start("run")
    try:
        for number in (1, 2):
            own_server.restart("immediate")
            shop.more(dsn, 100)
            with psycopg.connect(dsn, autocommit=True) as connection:
                last = 1_000 + number * 100
                until(lambda last=last: set(positions(connection).values()) == {last})
                check(connection)
    finally:
        end(host)
    assert host.returncode == 0
