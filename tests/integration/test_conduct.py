"""How a version is kept fresh is never a secret: by which code, and why it fails."""

from __future__ import annotations

import os
import signal

import psycopg
import pytest

from esops.readmodel import locks
from tests.support import shop
from tests.support.waiting import end, until

NEW_CODE = shop.PROJECTION.replace('kind.rpartition("_")[2]', 'kind.rpartition("_")[2].upper()')
POISON = shop.PROJECTION.replace(
    "    at = event.position[0]\n",
    "    at = event.position[0]\n    if at == 65:\n        raise KeyError('quantity')\n",
)
ROLLBACK = ("projection", "rollback", "cart_summary")


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def show(project, version: int = 1) -> dict:
    shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
    return next(each for each in shown["versions"] if each["version"] == version)


def codes(project) -> dict[str, dict]:
    found = project.run("doctor", "--output", "json").json["findings"]
    return {each["code"]: each for each in found}


def test_a_version_that_other_code_advanced_is_known_and_not_rolled_back_to(carts, dsn):
    shop.configure(carts, dsn, code=NEW_CODE)
    carts.ok("run", "--until-caught-up")
    assert show(carts)["other_code"] is None  # there was no event to apply
    shop.configure(carts, dsn)
    carts.ok("run", "--until-caught-up")
    shop.more(dsn, 10)
    carts.ok("run", "--until-caught-up")
    assert show(carts)["other_code"] is None  # by its own code
    shop.configure(carts, dsn, code=NEW_CODE)
    assert "to it needs --accept-code" in carts.ok("run", "--until-caught-up").err
    shop.more(dsn, 10)
    carts.ok("run", "--until-caught-up")
    shop.configure(carts, dsn)
    shop.more(dsn, 10)
    carts.ok("run", "--until-caught-up")
    assert show(carts)["other_code"]["position"] == "70"
    assert "after position 70" in carts.ok("projection", "show", "cart_summary").out
    assert "position 70" in codes(carts)["ESOPS-D071"]["message"]
    shop.configure(carts, dsn, code=NEW_CODE)
    plan = carts.ok("rebuild", "--blue-green", "--max-diff", "100%", "--dry-run").out
    assert "a rollback to it needs --accept-code" in plan
    switched = carts.ok("rebuild", "--blue-green", "--max-diff", "100%").out
    assert "rollback cart_summary --accept-code" in switched
    for command in (ROLLBACK, ("projection", "switch", "cart_summary")):
        refused = carts.run(*command)
        assert (refused.code, "--accept-code" in refused.err) == (6, True)
    assert show(carts, 2)["state"] == "active"
    assert show(carts, 2)["other_code"] is None
    carts.ok(*ROLLBACK, "--accept-code")
    # It is built anew, by one code.
    carts.ok("rebuild", "--yes")
    assert show(carts)["other_code"] is None


def follower(connection) -> int | None:
    held = locks.holder(connection, locks.version_lock("cart_summary", 1))
    return held and int(held.process.rpartition(":")[2])


@pytest.mark.thorough
def test_a_process_that_is_begun_again_with_changed_code_says_so(carts, dsn, connection):
    host = carts.start("run")
    try:
        first = until(lambda: follower(connection))
        shop.configure(carts, dsn, code=NEW_CODE)
        os.kill(first, signal.SIGKILL)
        until(lambda: follower(connection) not in {None, first})
        shop.more(dsn, 10)
        until(lambda: show(carts)["other_code"], every=0.3)
        assert show(carts)["other_code"]["position"] == "60"
        assert show(carts)["failure"] is None
    finally:
        err = end(host)[1]
    assert "of other code" in err


def test_why_a_version_is_not_kept_fresh_is_seen_without_the_log(carts, dsn):
    shop.configure(carts, dsn, code=POISON)
    shop.more(dsn, 10)
    host = carts.start("run")
    try:
        until(lambda: show(carts)["failure"], every=0.3)
        status = carts.run("status", "--output", "json")
        assert status.code == 1
        (version,) = status.json["projections"]
        assert version["ok"] is False
        assert "position 65" in version["detail"]
        assert version["lag_seconds"] > 0
        assert status.json["stores"][0]["ok"]
        shown = carts.ok("projection", "show", "cart_summary").out
        assert "KeyError: 'quantity'" in shown
        found = codes(carts)
        assert "KeyError: 'quantity'" in found["ESOPS-D072"]["message"]
        assert "ESOPS-D022" not in found
        plan = carts.ok("rebuild", "--blue-green", "--dry-run").out
        assert "KeyError: 'quantity'" in plan
        shop.configure(carts, dsn)
        until(lambda: show(carts)["failure"] is None, every=0.3)
        until(lambda: carts.run("status").code == 0, every=0.3)
    finally:
        end(host)


def test_a_second_rollback_does_not_undo_the_first(carts, dsn, connection):
    for _ in range(2):
        carts.ok("rebuild", "--blue-green")
    shown = carts.ok(*ROLLBACK, "--dry-run").err
    assert "from v3, which serves now, to v2" in shown
    assert "from v3, which serves now, to v2" in carts.ok(*ROLLBACK).err
    for more in ((), ("--dry-run",), ("--allow-stale",)):
        again = carts.run(*ROLLBACK, *more)
        assert again.code == 6, again.err
        assert "esops projection switch cart_summary --to 3" in again.err
    assert show(carts, 2)["state"] == "active"
    carts.ok("projection", "switch", "cart_summary", "--to", "3")
    carts.ok(*ROLLBACK)
    assert show(carts, 2)["state"] == "active"
    # What serves was changed by something else since.
    carts.ok("rebuild", "--blue-green")
    carts.ok(*ROLLBACK)
    assert show(carts, 2)["state"] == "active"


@pytest.mark.thorough
def test_after_a_table_was_dropped_by_hand_the_advice_works(carts, dsn, connection):
    shop.configure(carts, dsn, code=NEW_CODE)
    carts.ok("rebuild", "--blue-green", "--max-diff", "100%")
    shop.more(dsn, 10)
    carts.run("run", "--until-caught-up")  # the first one is left behind
    connection.execute("DROP TABLE cart_summary__v2 CASCADE")
    gone = carts.run("run", "--until-caught-up")
    assert gone.code == 6
    assert "cart_summary__v2" in gone.err
    assert "a defect" not in gone.err
    advice = codes(carts)["ESOPS-D058"]["fix"]
    assert advice in show(carts, 2)["failure"]["hint"]
    command = advice.partition("   (")[0].removeprefix("esops ").split()
    assert "--allow-stale" in command
    carts.ok(*command)
    assert connection.execute("SELECT count(*) FROM cart_summary").fetchone()[0]


@pytest.mark.thorough
def test_another_roles_view_is_found_by_the_plan(dsn, connection, project):
    """The hand-made view of doctor's advice, run by an administrator."""
    shop.make(dsn, 60)
    shop.configure(project, psycopg.conninfo.make_conninfo(dsn, user="viewer"))
    connection.execute(
        "CREATE ROLE viewer LOGIN; GRANT CREATE ON SCHEMA public TO viewer; DO $$ BEGIN EXECUTE "
        "'GRANT CREATE ON DATABASE ' || current_database() || ' TO viewer'; END $$;"
        "GRANT USAGE ON SCHEMA shop TO viewer; GRANT SELECT ON ALL TABLES IN SCHEMA shop TO viewer;"
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA shop TO viewer"
    )
    try:
        project.ok("rebuild", "--blue-green")
        connection.execute("DROP VIEW cart_summary")
        fix = codes(project)["ESOPS-D058"]["fix"]
        connection.execute(fix.partition("; ALTER")[0])
        refused = project.run("rebuild", "--blue-green", "--dry-run")
        assert (refused.code, "OWNER TO" in refused.err) == (6, True)
        connection.execute("DROP VIEW cart_summary")
        connection.execute(fix)
        project.ok("rebuild", "--blue-green")
    finally:
        connection.execute("DROP OWNED BY viewer CASCADE; DROP ROLE viewer")


@pytest.mark.thorough
def test_a_table_that_nothing_can_be_built_like_needs_its_ddl_first(dsn, connection, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace('ddl = "cart_summary.sql"\n', ""))
    host = project.start("run")
    try:
        until(lambda: follower(connection))
        connection.execute("DROP TABLE cart_summary__v1 CASCADE")
        shop.more(dsn, 10)
        until(lambda: show(project)["failure"], every=0.3)
    finally:
        err = end(host)[1]
    assert "a defect" not in err
    assert "write the DDL" in codes(project)["ESOPS-D058"]["fix"]


@pytest.mark.thorough
def test_what_a_resumed_rebuild_is_refused_for_comes_before_it_continues(carts, dsn, connection):
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    building = carts.run("projection", "switch", "cart_summary", "--to", "2")
    assert (building.code, "--resume" in building.err) == (6, True)
    resume = ("rebuild", "--blue-green", "--resume")
    for code, options in ((2, 'verify.ignore = ["itmes"]'), (6, "")):
        text = NEW_CODE if code == 6 else shop.PROJECTION
        shop.configure(carts, dsn, code=text, projection_options=options)
        refused = carts.run(*resume)
        assert (refused.code, "continues" in refused.err) == (code, False), refused.err
    shop.configure(carts, dsn, projection_options='verify.ignore = ["items"]')
    assert "continues building v2" in carts.ok(*resume).err
    # What is retired is not listed any more, and does not read as if v2 were.
    connection.execute(
        "INSERT INTO esops.dead_letters (projection, version, position, event_id, stream,"
        " stream_version, type, error) VALUES ('cart_summary', 1, '1', 'e', 's', 1, 't', 'why')"
    )
    letters = ("projection", "dead-letters", "cart_summary", "--output", "json")
    assert len(carts.ok(*letters).json) == 1
    carts.ok("projection", "retire", "cart_summary", "--yes")
    assert carts.ok(*letters).json == []
    assert "dead letter" not in carts.ok("projection", "show", "cart_summary").out
    assert "v1 is retired" in carts.ok("status").out
