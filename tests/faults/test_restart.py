"""Postgres goes away in the middle: everything waits, and goes on."""

from __future__ import annotations

import json

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.kills import state
from tests.support.waiting import end, finish, until

pytestmark = pytest.mark.slow
thorough = pytest.mark.thorough


@pytest.mark.parametrize("mode", thorough_but(["fast", "immediate"], "immediate"))
def test_a_rebuild_waits_for_a_restarted_server_and_goes_on(mode, own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 10_000)
    shop.configure(project, dsn)
    process = project.start("rebuild", "--blue-green", "--batch-size", "250", "--max-rate", "2500")
    _wait_for_events(dsn, 1_000)
    own_server.restart(mode)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "waiting for the database" in err
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert shop.check_version(connection, 1) == 1_000


@thorough  # in tests/faults/test_run_together.py three of them wait and go on
def test_a_follower_waits_for_a_restarted_server_and_goes_on(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    process = project.start("run")
    shop.more(dsn, 50)
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: _position(connection) == 1_050)
    own_server.restart("immediate")
    shop.more(dsn, 100)
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: _position(connection) == 1_150)
        shop.check_version(connection, 1)
    end(process)
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


ARCHIVE = ("archive", "run", "old", "--despite-checkpoints")


@pytest.fixture
def until_left(own_server, project):
    """A shop of 600 events, which take some seconds to be archived away, and a wait until no more
    than a number of them are left.
    """
    dsn = own_server.dsn()
    shop.make(dsn, 600)
    shop.configure(project, dsn)
    path = project.folder / "esops.toml"
    path.write_text(
        path.read_text() + "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\n"
        "store = 'shop'\ncategory = 'cart'\nremove = 'delete'\nnever_younger_than = '0s'\n"
        "batch = 10\nmax_rate = 150\n"
    )

    def wait_for(events: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            count = "SELECT count(*) FROM shop.mt_events"
            until(lambda: connection.execute(count).fetchone()[0] <= events)

    return wait_for


def test_an_archive_run_waits_for_a_restarted_server_and_goes_on(own_server, project, until_left):
    process = project.start(*ARCHIVE, "--output", "json")
    until_left(550)
    own_server.restart("immediate")
    out, err = finish(process)
    assert process.returncode == 0, err
    assert "waiting for the store" in err
    outcome = json.loads(out)
    assert (outcome["state"], outcome["removed_events"], outcome["left_alone"]) == ("done", 600, 0)
    until_left(0)


@thorough
def test_an_archive_run_waits_for_a_server_no_longer_than_it_may_take(
    own_server, project, until_left
):
    process = project.start(*ARCHIVE, "--max-duration", "6s")
    until_left(550)
    own_server.stop("immediate")
    finish(process)
    assert process.returncode == 5, "it can be resumed"
    own_server.start()
    left = project.ok(*ARCHIVE, "--output", "json").json
    assert (left["state"], left["left_alone"]) == ("done", 0)
    until_left(0)


def _position(connection) -> int:
    return int(connection.execute("SELECT position FROM esops.versions").fetchone()[0])


def _wait_for_events(dsn: str, events: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: state(connection) is not None)
        until(
            lambda: (
                connection.execute(
                    "SELECT coalesce(max(events), 0) FROM esops.versions"
                ).fetchone()[0]
                >= events
            )
        )


def test_a_restart_while_the_switch_waits_for_a_reader_loses_nothing(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    reader = psycopg.connect(dsn)
    reader.execute("SELECT count(*) FROM cart_summary")
    process = project.start("rebuild", "--blue-green")
    with psycopg.connect(dsn, autocommit=True) as connection:
        until(lambda: state(connection) == "verified")
    own_server.restart("immediate")
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "waiting for the database" in err
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT active_version FROM esops.projections").fetchone() == (2,)
        assert shop.check_version(connection, 2) == 100
    reader.close()
