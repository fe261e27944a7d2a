"""A part of the events is never taken for all of them: what is refused before anything is emptied,
and what is not switched to.
"""

from __future__ import annotations

import shutil

import pytest

from tests.support import kinds, shop
from tests.support.cases import thorough_but

EVENTS = 200


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def rows(connection) -> list:
    return connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall()


def fewer(connection, left: int) -> None:
    """All but some events are gone, as after a restore of the wrong dump."""
    connection.execute("DELETE FROM shop.mt_events WHERE seq_id > %s", (left,))


@pytest.mark.parametrize("left", thorough_but([0, EVENTS // 2 - 1], EVENTS // 2 - 1))
def test_in_place_refuses_before_it_loses_rows(carts, connection, left):
    before = rows(connection)
    fewer(connection, left)
    for way in ([], ["--ranges", "2"]):
        refused = carts.run("rebuild", "--yes", *way)
        assert refused.code == 6, refused.err
        assert "--accept-fewer" in refused.err
        assert carts.run("rebuild", "--dry-run", *way).code == 6
    assert rows(connection) == before
    assert connection.execute("SELECT count(*) FROM esops.rebuilds").fetchone() == (1,)
    if left:
        done = carts.ok("rebuild", "--yes", "--accept-fewer", "--output", "json").json
        assert (done["state"], done["events"]) == ("rebuilt", left)


def test_half_of_the_events_is_enough(carts, connection):
    fewer(connection, EVENTS // 2)
    done = carts.ok("rebuild", "--yes", "--output", "json").json
    assert done["events"] == EVENTS // 2
    shop.check_version(connection, 1)


def test_events_that_vanish_after_the_plan_are_noticed_under_the_lock(carts, connection, dsn):
    before = rows(connection)
    # What the operator answered took its time.
    carts.patch(
        "import psycopg\n"
        "from esops.cli.rebuild_operator import TerminalOperator\n"
        "def confirm(self, plan):\n"
        f"    with psycopg.connect({dsn!r}) as on:\n"
        "        on.execute('DELETE FROM shop.mt_events')\n"
        "TerminalOperator.confirm_in_place = confirm\n"
    )
    assert carts.run("rebuild").code == 6
    assert rows(connection) == before
    carts.environment.clear()
    carts.ok("rebuild", "--abort")
    assert connection.execute(
        "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
    ).fetchone() == ("aborted",)
    assert rows(connection) == before


def test_a_table_of_unknown_origin_is_not_emptied_for_nothing(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    connection.execute(shop.DDL.replace("{table}", "cart_summary"))
    connection.execute(
        "INSERT INTO cart_summary SELECT 'cart-' || n, 'c', 0, 0, 'open', 1 "
        "FROM generate_series(1, 100) n"
    )
    before = rows(connection)
    fewer(connection, 49)
    assert project.run("rebuild", "--yes").code == 6, "49 events cannot have made 100 rows"
    fewer(connection, 0)
    assert project.run("rebuild", "--yes").code == 6
    assert rows(connection) == before


@pytest.mark.parametrize(
    "kind",
    thorough_but(["sql", "handlers", "process"], "sql"),
)
def test_every_kind_refuses_in_place(dsn, connection, project, kind):
    if kind == "process" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    shop.make(dsn, EVENTS)
    kinds.configure(project, dsn, kind)
    project.ok("rebuild", "--blue-green")
    before = rows(connection)
    fewer(connection, 20)
    assert project.run("rebuild", "--yes").code == 6
    assert rows(connection) == before


def test_a_first_build_of_nothing_is_not_switched_to(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    connection.execute("UPDATE shop.mt_events SET is_archived = TRUE")
    held = project.run("rebuild", "--blue-green", "--output", "json")
    assert (held.code, held.json["state"], held.json["events"]) == (1, "paused", 0)
    assert held.json["warnings"]
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)
    text = project.run("rebuild", "--blue-green", "--resume")
    assert text.code == 1
    assert "--accept-fewer" in text.out
    project.ok("rebuild", "--blue-green", "--resume", "--accept-fewer")
    assert connection.execute("SELECT count(*) FROM cart_summary").fetchone() == (0,)


def test_no_rows_of_many_events_are_not_switched_to(dsn, connection, project):
    shop.make(dsn, EVENTS)
    none = "from esops import fold\n\n@fold(key='stream')\ndef cart_summary(row, event):\n    return None\n"
    shop.configure(project, dsn, code=none)
    held = project.run("rebuild", "--blue-green", "--output", "json")
    assert (held.code, held.json["state"], held.json["rows"]) == (1, "paused", 0)
    assert "0 rows, made of 200 events" in held.json["warnings"][0]
    assert connection.execute("SELECT to_regclass('cart_summary')").fetchone() == (None,)
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    done = project.ok("rebuild", "--blue-green", "--accept-fewer", "--output", "json").json
    assert (done["state"], done["events"]) == ("switched", EVENTS)


def test_an_empty_store_gives_an_empty_read_model(dsn, connection, project):
    shop.make(dsn)
    shop.configure(project, dsn)
    assert project.ok("rebuild", "--blue-green", "--output", "json").json["state"] == "switched"
    assert rows(connection) == []
