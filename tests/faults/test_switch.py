"""The switch under readers: no error, no missing table, no step back, forwards and
back.
"""

from __future__ import annotations

import psycopg
import pytest

from tests.support import shop
from tests.support.cases import thorough_but
from tests.support.soak import SOAK, rounds
from tests.support.waiting import end, finish, heard, until

pytestmark = pytest.mark.slow
PAUSE = 0.0 if SOAK else 0.01
"""Seconds between two reads. Readers at full speed leave nothing of two cores for the rest."""


@pytest.mark.parametrize("mode", thorough_but(["view", "rename"], "view"))
def test_readers_see_no_error_and_time_never_goes_back(mode, dsn, connection, project):
    shop.make(dsn, rounds(1_000, 20_000))
    shop.configure(project, dsn, projection_options=f'switch = "{mode}"')
    project.ok("rebuild", "--blue-green")
    query = "SELECT max(position) FROM cart_summary"
    with shop.Workload() as workload:
        follower = project.start("run", "--quiet")
        workload.add("writer", dsn, seed=1, rate=rounds(50, 200))
        for prepared in (False, True):
            workload.add("reader", dsn, query=query, prepared=prepared, pause=PAUSE)
        workload.add(
            "reader",
            dsn,
            query="SELECT count(*) FROM (SELECT * FROM cart_summary) AS all_of_it",
            prepared=True,
            pause=PAUSE,
        )
        done = project.ok("rebuild", "--blue-green", "--output", "json").json
        assert done["state"] == "switched"
        assert done["verification"]["differing"] == 0
        for _ in range(rounds(2, 40)):
            stood = _position(connection)
            until(lambda stood=stood: _position(connection) > stood)  # readers see what is new
            back = ("switch", "--to", "2") if _active(connection) == 1 else ("rollback",)
            project.ok("projection", back[0], "cart_summary", *back[1:])
        project.ok("projection", "switch", "cart_summary", "--to", "1") if _active(
            connection
        ) == 2 else None
        reports = workload.stop()
        end(follower)
    readers = [each for each in reports if each["who"] == "reader"]
    assert [(each["failures"], each["first_failures"], each["steps_back"]) for each in readers] == [
        (0, [], 0)
    ] * 3
    assert all(each["reads"] > 100 for each in readers)
    project.ok("run", "--until-caught-up")
    positions = {
        row[0] for row in connection.execute("SELECT position FROM esops.versions").fetchall()
    }
    assert len(positions) == 1
    name = connection.execute(
        "SELECT tables->'cart_summary'->>1 FROM esops.versions WHERE version = 2"
    ).fetchone()[0]
    assert shop.table(connection, name) == shop.truth(connection, int(positions.pop()))


def test_a_long_reader_makes_the_switch_wait_and_not_the_readers_behind_it(
    dsn, connection, project
):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    with psycopg.connect(dsn) as long_reader, shop.Workload() as workload:
        long_reader.execute("SELECT count(*) FROM cart_summary")
        workload.add("reader", dsn, query="SELECT count(*) FROM cart_summary", pause=PAUSE)
        process = project.start("rebuild", "--blue-green")
        seen = heard(process, "waiting for readers")
        assert process.poll() is None
        assert _active(connection) == 1
        # Whoever reads meanwhile comes through: none of them waits until the long reader is done.
        for _ in range(10):
            connection.execute("SELECT count(*) FROM cart_summary")
        assert process.poll() is None
        long_reader.rollback()
        _, rest = finish(process)
        err = seen + rest
        assert process.returncode == 0, err
        assert f"session {long_reader.info.backend_pid}" in err
        report = workload.stop()[0]
    assert _active(connection) == 2
    assert report["failures"] == 0


def test_a_prepared_transaction_in_the_way_is_named_with_its_end(dsn, connection, project):
    shop.make(dsn, 20)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM cart_summary; CREATE TABLE other (id int)")
        reader.execute("PREPARE TRANSACTION 'forgotten'")
    try:
        plan = project.ok("rebuild", "--blue-green", "--dry-run").out
        assert "ROLLBACK PREPARED 'forgotten'" in plan
        process = project.start("rebuild", "--blue-green")
        assert "prepared transaction 'forgotten' (of postgres" in heard(process, "since 2")
    finally:
        connection.execute("ROLLBACK PREPARED 'forgotten'")
    _, err = finish(process)
    assert process.returncode == 0, err


def test_columns_that_change_are_warned_of_and_readers_by_name_see_no_error(
    dsn, connection, project
):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    connection.execute(
        "CREATE ROLE reader_of_carts; GRANT SELECT ON cart_summary TO reader_of_carts"
    )
    changed = shop.DDL.replace(
        "status text NOT NULL,", "status text NOT NULL, currency text DEFAULT 'EUR',"
    )
    shop.configure(project, dsn, ddl=changed)
    plan = project.ok("rebuild", "--blue-green", "--dry-run").out
    assert "new column currency" in plan
    assert "prepared SELECT * of the application fails once" in plan
    assert "DROP VIEW" in plan
    with shop.Workload() as workload:
        query = "SELECT max(position) FROM cart_summary"
        workload.add("reader", dsn, query=query, prepared=True, pause=PAUSE)
        assert (
            project.ok("rebuild", "--blue-green", "--output", "json").json["verification"]["method"]
            == "columns"
        )
        report = workload.stop()[0]
    assert (report["failures"], report["steps_back"]) == (0, 0)
    assert connection.execute("SELECT DISTINCT currency FROM cart_summary").fetchall() == [("EUR",)]
    may = connection.execute(
        "SELECT has_table_privilege('reader_of_carts', 'cart_summary', 'SELECT')"
    ).fetchone()
    connection.execute("DROP OWNED BY reader_of_carts; DROP ROLE reader_of_carts")
    assert may == (True,)


# tests/integration/test_run.py has the refusal.
@pytest.mark.thorough
def test_rollback_to_a_version_left_behind_is_refused_when_its_code_is_gone(
    dsn, connection, project
):
    shop.make(dsn, 1_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    shop.configure(
        project, dsn, code=shop.PROJECTION.replace('"status": "open"', '"status": "OPEN"')
    )
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    from esops.demo import store

    store.generate(connection, 100, after=5_000, first_cart=5_000)
    project.ok("run", "--until-caught-up")
    refused = project.run("projection", "rollback", "cart_summary")
    assert refused.code == 6
    assert "would serve old data" in refused.err
    assert "versions.1.python" in refused.err
    assert _active(connection) == 2
    (project.folder / "old_projections.py").write_text(shop.PROJECTION)
    shop.configure(
        project,
        dsn,
        code=shop.PROJECTION.replace('"status": "open"', '"status": "OPEN"'),
        projection_options='versions.1.python = "old_projections:cart_summary"',
    )
    project.ok("projection", "rollback", "cart_summary")
    assert _active(connection) == 1
    shop.check_version(connection, 1)


def _position(connection) -> int:
    """The last event in what readers see."""
    return connection.execute("SELECT max(position) FROM cart_summary").fetchone()[0]


def _active(connection):
    return connection.execute("SELECT active_version FROM esops.projections").fetchone()[0]
