"""Postgres goes away in the middle: everything waits, and goes on."""

from __future__ import annotations

import time

import psycopg
import pytest

from tests.support import shop

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_rebuild_waits_for_a_restarted_server_and_goes_on(mode, own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 300_000)
    shop.configure(project, dsn)
    process = project.start("rebuild", "--blue-green", "--batch-size", "3000", "--output", "json")
    _wait_for_events(dsn, 6_000)
    own_server.restart(mode)
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    assert "waiting for the database" in err
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert shop.check_version(connection, 1) == 30_000


def test_a_follower_waits_for_a_restarted_server_and_goes_on(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    process = project.start("run")
    time.sleep(2)
    own_server.restart("immediate")
    with shop.People() as people:
        people.add("writer", dsn, seed=1, rate=100)
        time.sleep(4)
        people.stop()
    with psycopg.connect(dsn, autocommit=True) as connection:
        head = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and _position(connection) < head:
            time.sleep(0.2)
        assert _position(connection) == head > 1_000
        shop.check_version(connection, 1)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_a_server_that_is_down_is_one_sentence_and_exit_3(own_server, project):
    shop.configure(project, own_server.dsn())
    own_server.stop()
    result = project.run("rebuild", "--blue-green")
    assert result.code == 3
    assert result.err.startswith("error: the database cannot be reached")
    assert result.err.count("\n") <= 2
    caught_up = project.run("run", "--until-caught-up")
    assert caught_up.code == 3
    assert "error: the database cannot be reached" in caught_up.err
    own_server.start()


def _position(connection) -> int:
    return int(connection.execute("SELECT position FROM esops.versions").fetchone()[0])


def _wait_for_events(dsn: str, events: int) -> None:
    deadline = time.monotonic() + 30
    with psycopg.connect(dsn, autocommit=True) as connection:
        while time.monotonic() < deadline:
            there = connection.execute(
                "SELECT to_regclass('esops.rebuild_log') IS NOT NULL"
            ).fetchone()[0]
            if there:
                row = connection.execute("SELECT max(events) FROM esops.versions").fetchone()
                if row[0] and row[0] >= events:
                    return
            time.sleep(0.02)
    raise AssertionError("the rebuild did not come that far")


def test_a_restart_while_the_switch_waits_for_a_reader_loses_nothing(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    reader = psycopg.connect(dsn)
    reader.execute("SELECT count(*) FROM cart_summary")
    process = project.start("rebuild", "--blue-green")
    with psycopg.connect(dsn, autocommit=True) as connection:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and connection.execute(
            "SELECT max(state) FROM esops.rebuilds WHERE rebuild = 2"
        ).fetchone() != ("verified",):
            time.sleep(0.05)
    own_server.restart("immediate")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "waiting for the database" in err
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT active_version FROM esops.projections").fetchone() == (2,)
        assert shop.check_version(connection, 2) == 100
    reader.close()
