"""`esops plan` and `esops rebuild --changed`: what differs from the version that serves."""

from __future__ import annotations

import pytest

from tests.support import shop

EVENTS = 60
INDEX = "CREATE INDEX ON {table} (client);\n"


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    return project


def planned(project, code: int) -> dict:
    result = project.run("plan", "--output", "json")
    assert result.code == code, (result.out, result.err)
    (found,) = result.json["projections"]
    return found


def test_each_change_is_named_and_what_it_takes(carts, dsn, connection):
    new = planned(carts, 1)
    assert (new["changed"], new["needs"], new["events"]) == (["new"], "rebuild", EVENTS)
    carts.ok("rebuild", "--changed", "--blue-green")
    same = planned(carts, 0)
    assert (same["changed"], same["unknown"], same["needs"]) == ([], {}, "nothing")
    again = carts.ok("rebuild", "--changed", "--blue-green")
    assert "no projection needs it" in again.out
    assert connection.execute("SELECT count(*) FROM esops.versions").fetchone() == (1,)

    # The function, with the name in it that is another, and the time by the last rebuild.
    carts.write("shop_projections.py", shop.PROJECTION.replace('"open"', '"opened"'))
    found = planned(carts, 1)
    assert (found["changed"], found["needs"]) == (["function"], "rebuild")
    assert "cart_summary" in found["details"]["function"]
    assert found["seconds"] > 0
    assert found["bytes"] > 0
    carts.write("shop_projections.py", shop.PROJECTION)

    # Only an index: the statement is enough, and where somebody has run it nothing is left.
    carts.write("cart_summary.sql", shop.DDL + INDEX)
    found = planned(carts, 1)
    assert (found["changed"], found["only_indexes"]) == (["ddl"], True)
    (statement,) = found["statements"]
    assert "CREATE INDEX CONCURRENTLY ON" in statement
    text = carts.run("plan")
    assert "1 changed: cart_summary (ddl); 1 needs only a new index" in text.out
    connection.execute(statement)
    assert planned(carts, 0)["changed"] == []

    # A column is more than that.
    wider = shop.DDL.replace("client text NOT NULL", "client text NOT NULL, vip boolean")
    carts.write("cart_summary.sql", wider + INDEX)
    found = planned(carts, 1)
    assert (found["changed"], found["only_indexes"], found["statements"]) == (["ddl"], False, [])
    assert "vip boolean" in found["details"]["ddl"]
    carts.write("cart_summary.sql", shop.DDL + INDEX)

    # The filter and the settings; what is verified needs no rebuild.
    verified = 'verify.ignore = ["position"]'
    shop.configure(carts, dsn, projection_options=verified, ddl=shop.DDL + INDEX)
    found = planned(carts, 0)
    assert (found["changed"], found["needs"]) == (["verify"], "nothing")
    options = 'category = "cart"\non_error = "dead-letter"'
    shop.configure(carts, dsn, projection_options=options, ddl=shop.DDL + INDEX)
    found = planned(carts, 1)
    assert found["changed"] == ["events"]
    assert found["details"]["events"] == "category: none -> cart"
    # No event was skipped, so the rows are the same.
    skips = 'on_error = "dead-letter"'
    shop.configure(carts, dsn, projection_options=skips, ddl=shop.DDL + INDEX)
    found = planned(carts, 0)
    assert (found["changed"], found["needs"]) == ([], "nothing")
    assert "on_error" in found["notes"][-1]


def test_code_that_cannot_be_loaded_is_said_and_nothing_is_rebuilt(carts, connection):
    carts.ok("rebuild", "--blue-green")
    carts.write("shop_projections.py", "import nothing_of_that_name\n" + shop.PROJECTION)
    found = planned(carts, 2)
    assert found["needs"] is None
    assert "nothing_of_that_name" in found["error"]
    assert carts.run("rebuild", "--changed", "--blue-green").code == 2
    assert connection.execute("SELECT count(*) FROM esops.versions").fetchone() == (1,)


def test_a_version_of_an_older_esops_says_what_is_not_known_of_it(carts, connection):
    carts.ok("rebuild", "--blue-green")
    connection.execute("DELETE FROM esops.rebuild_log WHERE event = 'made of'")
    found = planned(carts, 0)
    assert found["changed"] == []
    assert "an older esops built v1" in found["unknown"]["settings"]
    assert "nothing known has changed" in carts.ok("plan").out
    carts.write("shop_projections.py", shop.PROJECTION.replace('"open"', '"opened"'))
    assert planned(carts, 1)["changed"] == ["function"]
    connection.execute("UPDATE esops.versions SET fingerprint = NULL")
    assert "not built by esops" in planned(carts, 1)["unknown"]["function"]


@pytest.mark.thorough
def test_a_version_that_is_built_waits_for_its_switch(carts):
    carts.ok("rebuild", "--blue-green")
    carts.write("cart_summary.sql", shop.DDL + INDEX)
    carts.ok("rebuild", "--changed", "--blue-green", "--no-switch")
    found = planned(carts, 1)
    assert (found["changed"], found["needs"], found["waiting"]) == (["ddl"], "switch", 2)
    left = carts.run("rebuild", "--changed", "--blue-green")
    assert left.code == 1
    assert "esops projection switch cart_summary --to 2" in left.err
    carts.ok("projection", "switch", "cart_summary", "--to", "2")
    assert planned(carts, 0)["changed"] == []


def test_only_what_changed_is_rebuilt(carts, dsn, connection):
    text = (carts.folder / "esops.toml").read_text()
    carts.write(
        "esops.toml",
        text
        + """
[projections.openings]
kind = "sql"
statement = "openings.sql"
tables = ["openings"]
ddl = "openings_ddl.sql"
""",
    )
    carts.write("openings_ddl.sql", "CREATE TABLE {table} (id text PRIMARY KEY);")
    carts.write(
        "openings.sql",
        "INSERT INTO {table} SELECT stream_id FROM shop.mt_events WHERE seq_id > :after "
        "AND seq_id <= :until AND type = 'shopping_cart_opened'",
    )
    carts.ok("rebuild", "--changed", "--blue-green")
    carts.write(
        "openings.sql",
        "INSERT INTO {table} SELECT 'x' || stream_id FROM shop.mt_events WHERE seq_id > :after "
        "AND seq_id <= :until AND type = 'shopping_cart_opened'",
    )
    result = carts.run("plan")
    assert result.code == 1
    assert result.out.splitlines()[-1] == "1 changed: openings (function); 1 needs a rebuild"
    done = carts.run("rebuild", "--changed", "--blue-green", "--output", "json")
    assert done.code == 1  # all rows differ: somebody has to decide
    rows = connection.execute(
        "SELECT projection, count(*) FROM esops.versions GROUP BY 1 ORDER BY 1"
    )
    assert rows.fetchall() == [("cart_summary", 1), ("openings", 2)]
    assert carts.run("rebuild", "--changed").code == 2
