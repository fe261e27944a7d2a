"""`esops plan` where the code is as it was and what serves is not, or cannot be looked at."""

from __future__ import annotations

import json
from contextlib import contextmanager

import psycopg
import pytest

from tests.support import shop
from tests.support.databases import database
from tests.support.project import Project

pytestmark = pytest.mark.xdist_group("plan troubles")  # they share what is built
EVENTS = 60


@pytest.fixture(scope="module")
def built(server, warm, tmp_path_factory):
    """A read model that serves; each test undoes what it does to it."""
    with database(server) as dsn:
        project = Project(tmp_path_factory.mktemp("plan"), warm=warm)
        shop.make(dsn, EVENTS)
        shop.configure(project, dsn)
        project.ok("rebuild", "--blue-green")
        yield dsn


@pytest.fixture
def connection(built):
    with psycopg.connect(built, autocommit=True) as connection:
        yield connection


@pytest.fixture
def carts(built, project):
    shop.configure(project, built)
    return project


def planned(project, code: int, name: str = "cart_summary") -> dict:
    result = project.run("plan", "--output", "json")
    assert result.code == code, (result.out, result.err)
    return next(each for each in result.json["projections"] if each["projection"] == name)


@contextmanager
def done(connection, statement: str, undo: str):
    connection.execute(statement)
    try:
        yield
    finally:
        connection.execute(undo)


def test_what_readers_get_is_something_else_or_gone(carts, connection):
    assert planned(carts, 0)["settled"]
    view = connection.execute("SELECT pg_get_viewdef('cart_summary'::regclass)").fetchone()[0]
    elsewhere = view.replace("cart_summary__v1", "(SELECT * FROM cart_summary__v1 LIMIT 1) AS a")
    elsewhere = elsewhere.replace("cart_summary__v1.", "a.")
    set_back = f"CREATE OR REPLACE VIEW cart_summary AS {view}"
    with done(connection, f"CREATE OR REPLACE VIEW cart_summary AS {elsewhere}", set_back):
        found = planned(carts, 1)
        assert (found["changed"], found["needs"]) == ([], "look")
        assert "does not show public.cart_summary__v1" in found["wrong"]["readers"]
        assert carts.run("rebuild", "--changed", "--blue-green").code == 1
    with done(connection, "DROP VIEW cart_summary", set_back):
        assert 'CREATE VIEW "public"."cart_summary"' in planned(carts, 1)["wrong"]["readers"]
        assert carts.run("plan").out.splitlines()[-1] == "what serves is wrong in 1"
    assert planned(carts, 0)["settled"]


def test_its_table_is_gone(carts, connection):
    away = "ALTER TABLE cart_summary__v1 RENAME TO away"
    with done(connection, away, "ALTER TABLE away RENAME TO cart_summary__v1"):
        found = planned(carts, 1)
        assert "does not exist any more. Build it again" in found["wrong"]["gone"]
        assert carts.run("rebuild", "--changed", "--blue-green").code == 1


def test_a_rebuild_in_place_has_not_come_to_its_end(carts, connection):
    """The settings that it began with are not those of the rows."""
    begun = """
        WITH begun AS (
            INSERT INTO esops.rebuilds (projection, state, from_version, to_version, options, host, pid)
            VALUES ('cart_summary', 'catching-up', 1, 1, '{"in_place": true}', 'here', 1)
            RETURNING rebuild)
        INSERT INTO esops.rebuild_log (rebuild, step, event, detail)
        SELECT begun.rebuild, 'planned', l.event,
               jsonb_set(l.detail, '{settings,on_error}', '"dead-letter"')
          FROM begun, esops.rebuild_log l WHERE l.event = 'made of'
           AND l.detail ->> 'kind' = 'fold'
         LIMIT 1"""
    undone = """
        DELETE FROM esops.rebuild_log
         WHERE rebuild IN (SELECT rebuild FROM esops.rebuilds WHERE host = 'here');
        DELETE FROM esops.rebuilds WHERE host = 'here'"""
    with done(connection, begun, undone):
        found = planned(carts, 1)
        assert (found["changed"], found["needs"]) == ([], "look")
        assert found["wrong"]["rows"].endswith("esops rebuild cart_summary --resume")
        (note,) = found["notes"]
        assert note.endswith("continue it with esops rebuild cart_summary --resume")


def test_its_rows_are_of_another_log(carts, built, connection, server):
    lost = "UPDATE esops.versions SET lost = 'restored'"
    with done(connection, lost, "UPDATE esops.versions SET lost = NULL"):
        found = planned(carts, 1)
        assert (found["changed"], found["needs"]) == (["lost"], "rebuild")
    with database(server) as other:
        shop.make(other, 40)
        text = (carts.folder / "esops.toml").read_text()
        text = text.replace(json.dumps(built), json.dumps(other))
        carts.write(
            "esops.toml",
            text.replace(
                "[projections", f"[readmodels.rm]\ndsn = {json.dumps(built)}\n[projections"
            ),
        )
        found = planned(carts, 1)
        assert (found["changed"], found["needs"]) == ([], "look")
        assert "cart_summary v1" in found["wrong"]["log"]


def test_its_tables_are_in_another_schema(carts, built, connection):
    shop.configure(carts, built)
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text.replace('["cart_summary"]', '["other.cart_summary"]'))
    with done(connection, "CREATE SCHEMA other", "DROP SCHEMA other"):
        found = planned(carts, 1)
        assert found["details"] == {
            "tables": "other.cart_summary, and they were public.cart_summary"
        }


NEW = """
[projections.another]
python = "shop_projections:cart_summary"
tables = ["another"]
ddl = "another.sql"
"""


def test_one_that_cannot_be_looked_at_hides_no_other_one(carts, built, connection):
    text = (carts.folder / "esops.toml").read_text()
    carts.write("esops.toml", text + NEW)
    carts.write("another.sql", shop.DDL)
    with psycopg.connect(built) as other:
        other.execute("LOCK TABLE cart_summary__v1 IN ACCESS EXCLUSIVE MODE")
        result = carts.run("plan")
        assert result.code == 4
        assert "cart_summary v1: not known: a session holds a lock" in result.out
        assert "another: needs a rebuild" in result.out
        assert result.out.splitlines()[-1].endswith("1 could not be looked at")
    # One that was never built is tried out as well.
    for ddl, said in (
        ("CREATE TABLE {table} (a int", "green's DDL fails"),
        (shop.DDL + "COMMIT; CREATE TABLE leaked (a int);", "has COMMIT in it"),
        (shop.DDL.replace("client text", "client text REFERENCES nothing"), "does not exist"),
    ):
        carts.write("another.sql", ddl)
        assert said in planned(carts, 2, "another")["error"]
    assert carts.run("plan").out.splitlines()[-1] == "1 could not be looked at"
    carts.write("esops.toml", text + NEW.replace('ddl = "another.sql"\n', ""))
    assert "there is no table" in planned(carts, 2, "another")["error"]


def test_a_projection_that_is_not_in_the_file_is_said(carts):
    """And one with another name there is no reason to do nothing."""
    text = (carts.folder / "esops.toml").read_text()
    carts.write("another.sql", shop.DDL)
    carts.write("esops.toml", text[: text.index("[projections")] + NEW)
    found = planned(carts, 1)
    assert (found["version"], found["settled"], found["needs"]) == (1, True, "nothing")
    assert "not in this esops.toml" in found["unknown"]["projection"]
    carts.write("esops.toml", text.replace("[projections.cart_summary]", "[projections.renamed]"))
    found = planned(carts, 1, "renamed")
    assert (found["needs"], [*found["unknown"]]) == ("look", ["name"])


@pytest.mark.thorough
def test_settings_that_changed_while_it_was_built_are_of_a_part_of_its_rows(
    carts, built, connection
):
    text = (carts.folder / "esops.toml").read_text()
    carts.write("another.sql", shop.DDL)
    carts.write("esops.toml", text + NEW)
    carts.ok("rebuild", "another", "--blue-green")
    carts.write("shop_projections.py", shop.PROJECTION.replace("sign * data", "2 * sign * data"))
    assert carts.run("rebuild", "another", "--blue-green").code == 1
    carts.write("esops.toml", text + NEW + 'on_error = "dead-letter"\nswitch = "view"\n')
    carts.ok("rebuild", "another", "--blue-green", "--resume", "--max-diff", "100%")
    carts.write("esops.toml", text + NEW)
    found = planned(carts, 1, "another")
    assert found["version"] == 2
    assert found["details"] == {
        "settings": "on_error: a part of its rows was made with stop, and a part with dead-letter"
    }
    # Whoever stopped at no event has skipped none.
    carts.write("esops.toml", text + NEW + 'on_error = "dead-letter"\n')
    found = planned(carts, 1, "another")  # for the other projection
    assert (found["settled"], found["details"]) == (True, {})


OWN_NAMES = """
CREATE TABLE {table} (
    id text PRIMARY KEY, n serial, m bigint GENERATED BY DEFAULT AS IDENTITY,
    CHECK (id <> '{table}'), CHECK ('{table}'::regclass IS NOT NULL)
);
COMMENT ON TABLE {table} IS 'this is {table}';
CREATE INDEX NAME_ids ON {table} (n);
"""
OF_SQL = """
[projections.NAME]
kind = "sql"
statement = "openings.sql"
tables = ["NAME"]
ddl = "NAME.sql"
switch = "SWITCH"
"""
TRIGGER = """
CREATE TRIGGER a BEFORE UPDATE ON {table} FOR EACH ROW
EXECUTE FUNCTION suppress_redundant_updates_trigger();
"""
OPENINGS = """
INSERT INTO {table} (id) SELECT stream_id FROM shop.mt_events WHERE seq_id > :after
AND seq_id <= :until AND type = 'shopping_cart_opened'
"""


def build_with_each_switch(carts) -> None:
    """Two projections with the same DDL, by_view and by_rename."""
    text = (carts.folder / "esops.toml").read_text()
    for name, switch in (("by_view", "view"), ("by_rename", "rename")):
        text += OF_SQL.replace("NAME", name).replace("SWITCH", switch)
        carts.write(f"{name}.sql", OWN_NAMES.replace("NAME", name))
    carts.write("openings.sql", OPENINGS)
    carts.write("esops.toml", text)
    carts.ok("rebuild", "by_view", "by_rename", "--blue-green")


def test_what_the_ddl_says_of_its_own_table_is_no_change_and_what_it_adds_is_one(
    carts, built, connection
):
    """Sequences, and texts with the name of the table, with both ways to switch."""
    build_with_each_switch(carts)
    assert planned(carts, 0, "by_view")["changed"] == []
    carts.ok("rebuild", "by_rename", "--blue-green")  # whose names have been exchanged then
    assert planned(carts, 0, "by_rename")["changed"] == []
    carts.write("by_rename.sql", OWN_NAMES.replace("NAME", "by_rename") + TRIGGER)
    assert planned(carts, 1, "by_rename")["details"]["ddl"].startswith("new trigger")


@pytest.mark.thorough
def test_what_the_ddl_adds_is_named(carts, built, connection):
    build_with_each_switch(carts)
    for ddl, said in (
        (TRIGGER, "new trigger"),
        ("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;", "new row security"),
        ("ALTER TABLE {table} SET UNLOGGED;", "new storage: UNLOGGED"),
    ):
        carts.write("by_rename.sql", OWN_NAMES.replace("NAME", "by_rename") + ddl)
        assert planned(carts, 1, "by_rename")["details"]["ddl"].startswith(said)
    turned = OWN_NAMES.replace("id text PRIMARY KEY, n serial", "n serial, id text PRIMARY KEY")
    carts.write("by_rename.sql", turned.replace("NAME", "by_rename"))
    assert "another order of columns: n, id, m" in planned(carts, 1, "by_rename")["details"]["ddl"]
    # A name that something else in the schema has.
    carts.write("by_view.sql", OWN_NAMES.replace("NAME", "by_rename"))
    carts.write("by_rename.sql", OWN_NAMES.replace("NAME", "by_rename"))
    found = planned(carts, 1, "by_view")
    assert (found["changed"], found["needs"], found["error"]) == ([], "look", None)
    assert "leave the name out" in found["unknown"]["ddl"]
    carts.write("openings.sql", OPENINGS.replace("stream_id", "upper(stream_id)"))
    found = planned(carts, 1, "by_view")  # a rebuild would only fail, and keep others back
    assert (found["changed"], found["needs"]) == (["function"], "look")


def test_a_version_that_waits_is_the_one_that_would_be_made_today(carts, built, connection):
    code = shop.PROJECTION.replace('"open"', '"opened"')
    shop.configure(carts, built, code=code)
    carts.run("rebuild", "--changed", "--blue-green", "--no-switch")
    assert planned(carts, 1)["waiting"] == 2
    try:
        for options, needs in (
            ('on_error = "dead-letter"', "switch"),
            ('begins_with = ["snap"]', "rebuild"),
        ):
            shop.configure(carts, built, code=code, projection_options=options)
            assert planned(carts, 1)["needs"] == needs
        shop.configure(carts, built, code=code)
        away = "ALTER TABLE cart_summary__v2 RENAME TO away"
        with done(connection, away, "ALTER TABLE away RENAME TO cart_summary__v2"):
            assert planned(carts, 1)["needs"] == "rebuild"
        with done(
            connection,
            "UPDATE esops.versions SET lost = 'gone' WHERE version = 2",
            "UPDATE esops.versions SET lost = NULL",
        ):
            assert planned(carts, 1)["needs"] == "rebuild"
    finally:
        carts.ok("projection", "retire", "cart_summary", "2", "--yes")


def test_of_an_older_esops_the_database_shows_the_switch(carts, built, connection):
    kept = "UPDATE esops.rebuild_log SET event = '%s' WHERE event = '%s'"
    with done(connection, kept % ("older", "made of"), kept % ("made of", "older")):
        assert "settings" in planned(carts, 0)["unknown"]
        assert carts.run("plan").out.splitlines()[-1] == "nothing known has changed"
        shop.configure(carts, built, projection_options='switch = "rename"')
        assert planned(carts, 1)["details"]["settings"] == "switch: view -> rename"
