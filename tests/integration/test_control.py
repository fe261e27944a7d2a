"""A second terminal: pause, go on, slow down, put the switch off and make it, while a rebuild is at
work; limits by load and replicas.
"""

from __future__ import annotations

import contextlib
import threading
import time

import psycopg
import pytest

from esops.running.throttle import Limits, Throttle
from tests.support import shop
from tests.support.waiting import end, finish, heard, stays, until

EVENTS = 6_000


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


def done(connection) -> int:
    """Events that are committed into green."""
    row = connection.execute(
        "SELECT events FROM esops.versions ORDER BY version DESC LIMIT 1"
    ).fetchone()
    return row[0] if row else 0


def there(connection) -> bool:
    return (
        connection.execute("SELECT to_regclass('esops.controls')").fetchone()[0] is not None
        and done(connection) > 0
    )


@pytest.mark.thorough
def test_a_rate_is_kept_and_can_be_lifted(carts, connection):
    process = carts.start("rebuild", "--blue-green", "--max-rate", "500", "--batch-size", "100")
    until(lambda: there(connection))
    first, at = done(connection), time.monotonic()
    until(lambda: done(connection) >= first + 600)
    # A busy machine makes it slower, and never quicker; a batch may lie on either side.
    assert time.monotonic() - at > (600 - 200) / 500
    assert done(connection) < EVENTS
    carts.ok("projection", "throttle", "cart_summary", "--max-rate", "1000000")
    out, err = finish(process)
    assert process.returncode == 0, err
    shop.check_version(connection, 1)
    assert (
        carts.ok("projection", "throttle", "cart_summary", "--off", "--output", "json").json[
            "limits"
        ]
        == {}
    )


@pytest.mark.thorough
@pytest.mark.slow
def test_a_slow_rate_keeps_no_statement_open(carts, connection):
    """Work under a rate reads little, commits, and rests with nothing open: an open snapshot would
    hold the application's daemon back.
    """
    process = carts.start("rebuild", "--blue-green", "--max-rate", "2500")
    until(lambda: there(connection))
    longest = 0.0  # whatever the machine does, less than the rate alone would take
    while process.poll() is None and done(connection) < EVENTS * 0.9:
        row = connection.execute(
            "SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float FROM "
            "pg_stat_activity "
            "WHERE application_name LIKE 'esops %' AND xact_start IS NOT NULL"
        ).fetchone()
        longest = max(longest, row[0] or 0.0)
        time.sleep(0.02)
    _, err = finish(process)
    assert process.returncode == 0, err
    assert longest < 0.9 * EVENTS / 2_500, f"{longest:.1f} s"
    shop.check_version(connection, 1)


def test_paused_within_a_second_and_on_again(carts, connection):
    process = carts.start("rebuild", "--blue-green", "--max-rate", "500", "--batch-size", "100")
    until(lambda: there(connection))
    carts.ok("projection", "pause", "cart_summary")
    heard(process, "paused by")
    stood = done(connection)
    assert 0 < stood < EVENTS
    open_statements = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'esops%' AND (state <> "
        "'idle' OR backend_xmin IS NOT NULL) "
        "AND pid <> pg_backend_pid()"
    ).fetchone()
    stays(lambda: done(connection) == stood, 0.5)
    assert open_statements == (0,), "what waits holds nothing"
    carts.ok("projection", "throttle", "cart_summary", "--max-rate", "100000")
    carts.ok("projection", "resume", "cart_summary")
    _, err = finish(process)
    assert process.returncode == 0, err
    shop.check_version(connection, 1)


@pytest.mark.thorough
def test_stopped_while_paused_it_can_be_resumed(carts, connection):
    assert carts.run("projection", "pause", "cart_summary").code == 1, "nothing works on it yet"
    process = carts.start("rebuild", "--blue-green")
    until(
        lambda: (
            connection.execute(
                "SELECT count(*) FROM esops.rebuilds WHERE state = 'catching-up'"
            ).fetchone()[0]
            == 1
        )
    )
    _, err = end(process)
    assert process.returncode == 5, err
    assert "paused" in err
    carts.ok("projection", "resume", "cart_summary")
    carts.ok("rebuild", "--blue-green", "--resume")
    shop.check_version(connection, 1)


def test_the_switch_is_put_off_and_green_keeps_up(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    process = carts.start("rebuild", "--blue-green", "--postpone")
    until(
        lambda: (
            connection.execute(
                "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
            ).fetchone()
            == ("verified",)
        )
    )
    shop.more(dsn, 500)
    until(lambda: done(connection) == EVENTS + 500)
    assert carts.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 1
    carts.ok("projection", "switch-now", "cart_summary")
    _, err = finish(process)
    assert process.returncode == 0, err
    assert "esops projection switch-now cart_summary" in err
    assert carts.ok("projection", "show", "cart_summary", "--output", "json").json["active"] == 2
    shop.check_version(connection, 2)
    assert carts.run("projection", "switch-now", "cart_summary").code == 2


@pytest.mark.thorough
def test_the_next_switch_is_put_off_before_its_rebuild_begins(carts, connection):
    carts.ok("rebuild", "--blue-green")
    assert carts.run("projection", "postpone", "cart_summary").code == 1, "it is for the next one"
    process = carts.start("rebuild", "--blue-green")
    until(
        lambda: (
            connection.execute(
                "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
            ).fetchone()
            == ("verified",)
        )
    )
    stays(lambda: process.poll() is None, 0.3)
    carts.ok("projection", "switch-now", "cart_summary")
    assert finish(process)
    assert process.returncode == 0


@pytest.mark.thorough
def test_what_esops_run_does_is_paused_too(carts, connection, dsn):
    carts.ok("rebuild", "--blue-green")
    process = carts.start("run")

    def head() -> int:
        return connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()[0]

    def stands() -> bool:
        """Whether events that are there are not taken."""
        shop.more(dsn, 10)
        before = done(connection)
        time.sleep(1.5)  # three times as long as a follower takes to look at what is asked of it
        return done(connection) == before < head()

    try:
        shop.more(dsn, 100)
        until(lambda: done(connection) == EVENTS + 100)
        carts.ok("projection", "pause", "cart_summary")
        until(stands)
        carts.ok("projection", "resume", "cart_summary")
        until(lambda: done(connection) == head())
    finally:
        end(process)


def sleep(connection) -> None:
    with contextlib.suppress(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(150)")


def test_a_busy_server_is_waited_for(carts, connection, dsn):
    with psycopg.connect(dsn, autocommit=True) as busy:
        sleeper = threading.Thread(target=sleep, args=(busy,))
        sleeper.start()
        process = carts.start("rebuild", "--blue-green", "--max-load", "0")
        heard(process, "max-load")
        busy.cancel()
        sleeper.join()
        finish(process)
        assert process.returncode == 0
    shop.check_version(connection, 1)


def test_a_replica_that_is_behind_is_waited_for(own_server):
    with (
        own_server.replica() as replica,
        psycopg.connect(own_server.dsn(), autocommit=True) as primary,
    ):
        throttle = Throttle(own_server.dsn(), "x", Limits(max_lag_bytes=1_000_000))
        until(
            lambda: (
                primary.execute(
                    "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn IS NOT NULL"
                ).fetchone()
                == (1,)
            )
        )
        assert not throttle.holds()
        with psycopg.connect(replica.dsn(), autocommit=True) as connection:
            connection.execute("SELECT pg_wal_replay_pause()")
            primary.execute(
                "CREATE TABLE filler AS SELECT repeat(md5(g::text), 50) FROM "
                "generate_series(1, 5000) g"
            )
            until(throttle.holds)
            connection.execute("SELECT pg_wal_replay_resume()")
            until(lambda: not throttle.holds())
        throttle.close()


def test_limits_that_the_role_could_not_see_are_refused(carts, connection, dsn):
    connection.execute("CREATE ROLE half_blind LOGIN; GRANT ALL ON SCHEMA public, shop TO "
        "half_blind; "
                       "GRANT SELECT ON ALL TABLES IN SCHEMA shop TO half_blind; "
                       "GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop TO half_blind")  # fmt: skip
    connection.execute(f"GRANT CREATE ON DATABASE {connection.info.dbname} TO half_blind")
    try:
        shop.configure(carts, f"{dsn} user=half_blind")
        result = carts.run("rebuild", "--blue-green", "--max-load", "5")
        assert result.code == 6
        assert "GRANT pg_read_all_stats TO half_blind" in result.err
    finally:
        connection.execute("DROP OWNED BY half_blind CASCADE; DROP ROLE half_blind")


def test_wishes_that_make_no_sense(carts):
    assert carts.run("projection", "pause", "nonesuch").code == 2


def test_niceness_rests_as_long_as_it_works(dsn):
    throttle = Throttle(dsn, "x", Limits(nice=2.0))
    throttle.wait()
    worked = time.monotonic()
    time.sleep(0.1)
    began = time.monotonic()
    throttle.spend(10)
    assert time.monotonic() - began >= 1.9 * (began - worked)
    throttle.close()
