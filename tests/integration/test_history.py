"""Who did what: each command that writes leaves a row, and how it ended is true even after kill -9."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import shop
from tests.support.waiting import finish, heard, kill, until


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    return project


def told(project, *arguments: str) -> list[tuple]:
    actions = project.ok("history", *arguments, "--output", "json").json["actions"]
    return [(each["command"], each["subject"], each["result"]) for each in actions]


def test_what_is_done_to_a_projection_is_told_from_the_first_rebuild_on(carts, connection):
    """The first row is written by the command that makes the table for it."""
    assert told(carts) == []
    carts.ok("rebuild", "--blue-green")
    carts.ok("rebuild", "--blue-green")
    carts.ok("projection", "rollback", "cart_summary")
    carts.ok("projection", "switch", "cart_summary", "--to", "2")
    carts.run("projection", "pause", "cart_summary")
    carts.ok("projection", "throttle", "cart_summary", "--max-rate", "500")
    carts.ok("projection", "resume", "cart_summary")
    carts.ok("projection", "retire", "cart_summary", "--yes")
    carts.ok("run", "--until-caught-up")
    found = carts.ok("history", "--output", "json").json["actions"]
    name = "cart_summary"
    assert [
        (a["command"], a["subject"], a["options"], a["result"], a["exit_code"]) for a in found
    ] == [
        ("rebuild", name, "--blue-green", "done", 0),
        ("rebuild", name, "--blue-green", "done", 0),
        ("projection rollback", name, "", "done", 0),
        ("projection switch", name, "--to 2", "done", 0),
        ("projection pause", name, "", "done, with findings", 1),
        ("projection throttle", name, "--max-rate 500", "done", 0),
        ("projection resume", name, "", "done", 0),
        ("projection retire", name, "", "done", 0),
        ("run", name, "--until-caught-up", "done", 0),
    ]
    role = connection.execute("SELECT session_user").fetchone()[0]
    assert {a["who"] for a in found} == {f"{found[0]['os_user']} as {role}"}
    assert told(carts, "--last", "2") == [
        ("projection retire", name, "done"),
        ("run", name, "done"),
    ]
    assert len(told(carts, "--projection", name, "--since", "1h")) == len(found)
    assert len(told(carts, "--projection", name, "--since", "999999999d")) == len(found)


@pytest.mark.thorough
def test_what_is_started_as_a_module_is_told_by_the_same_words(carts):
    """As containers, cron and the pages' controls start it."""
    carts.ok("rebuild", "--blue-green")
    throttle = ["projection", "throttle", "cart_summary", "--max-rate", "500"]
    as_a_module = [sys.executable, "-m", "esops", *throttle]
    subprocess.run(as_a_module, cwd=carts.folder, env=carts.environ(), check=True)
    (last,) = carts.ok("history", "--last", "1", "--output", "json").json["actions"]
    assert (last["command"], last["options"]) == ("projection throttle", "--max-rate 500")


@pytest.mark.thorough
def test_what_only_reads_or_was_tried_leaves_no_row(carts, connection):
    carts.ok("rebuild", "--blue-green")
    before = told(carts)
    carts.ok("rebuild", "--blue-green", "--dry-run")
    carts.ok("projection", "show", "cart_summary")
    carts.ok("projection", "check", "cart_summary")
    carts.ok("status")
    assert carts.run("projection", "retire", "cart_summary").code == 2  # nothing stands by
    assert told(carts) == before


def test_a_killed_process_has_ended_without_a_word_and_one_at_work_is_running(carts):
    carts.ok("rebuild", "--blue-green")
    process = carts.start("run")
    until(lambda: told(carts)[-1][0] == "run", every=0.2)
    assert told(carts)[-1] == ("run", "cart_summary", "running")
    kill(process)
    until(lambda: told(carts)[-1] == ("run", "cart_summary", "ended without a word"), every=0.2)


@pytest.mark.thorough
def test_a_lost_session_is_no_end(carts, connection):
    """The row is completed although the session that held its lock was ended by the server."""
    carts.ok("rebuild", "--blue-green")
    process = carts.start("run")
    until(lambda: told(carts)[-1][0] == "run", every=0.2)
    ended = connection.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE application_name LIKE 'esops %% record of actions' AND datname = current_database()"
    ).fetchone()[0]
    assert ended == 1
    process.terminate()
    finish(process)
    assert told(carts)[-1] == ("run", "cart_summary", "done")


def test_no_value_of_a_person_and_no_key_is_written_down(carts, connection):
    carts.ok("rebuild", "--blue-green")
    stream = connection.execute("SELECT cart_id FROM cart_summary LIMIT 1").fetchone()[0]
    carts.ok("rebuild", "cart_summary", "--keys", stream, "--yes")
    row = connection.execute(
        "SELECT row_to_json(a)::text, options FROM esops.actions a ORDER BY at DESC LIMIT 1"
    ).fetchone()
    assert stream not in row[0]
    assert row[1] == "--keys …"


def test_a_table_that_takes_no_row_does_not_stop_the_job(carts, connection):
    carts.ok("rebuild", "--blue-green")
    connection.execute("ALTER TABLE esops.actions ADD CHECK (false) NOT VALID")
    done = carts.ok("rebuild", "--blue-green")
    assert done.err.count("esops history will not show this action") == 1
    assert len(told(carts)) == 1


def test_a_lock_on_the_table_holds_up_neither_a_command_nor_the_end_of_a_run(carts, connection):
    """Each would wait for as long as the lock is held."""
    carts.ok("rebuild", "--blue-green")
    process = carts.start("run")
    until(lambda: told(carts)[-1][0] == "run", every=0.2)
    with connection.transaction():
        connection.execute("LOCK TABLE esops.actions IN SHARE MODE")
        paused = carts.run("projection", "pause", "cart_summary")
        assert paused.code in (0, 1)  # 1 where the version's own process has not begun yet
        assert paused.err.count("esops history will not show this action") == 1
        process.terminate()
        finish(process)
        assert process.returncode == 0
    assert told(carts)[-1] == ("run", "cart_summary", "ended without a word")


def test_a_user_whose_name_is_no_text_is_recorded(carts, connection):
    carts.patch(
        "import pwd, types; pwd.getpwuid = lambda _: types.SimpleNamespace(pw_name='a\\udcffb')"
    )
    carts.environment["LOGNAME"] = "alice"  # which anybody sets
    carts.ok("rebuild", "--blue-green")
    users = connection.execute("SELECT os_user FROM esops.actions").fetchall()
    assert users == [("a\\udcffb",)]


@pytest.mark.thorough
def test_a_run_that_begins_before_the_first_rebuild_is_recorded_once_it_follows(carts):
    process = carts.start("run")
    try:
        heard(process, "no version is built yet")
        carts.ok("rebuild", "--blue-green")
        until(lambda: ("run", "cart_summary", "running") in told(carts), every=0.2)
    finally:
        process.terminate()
        finish(process)
    # It began before the rebuild.
    assert told(carts)[0] == ("run", "cart_summary", "done")


def test_tables_of_an_older_esops_are_said_to_be_older(carts, connection):
    carts.ok("rebuild", "--blue-green")
    connection.execute(
        "DROP TABLE esops.actions; DELETE FROM esops.schema_migrations WHERE number >= 13"
    )
    found = carts.ok("history")
    assert "an older esops made esops' own tables (schema 12)" in found.err
    assert "Nothing is recorded." in found.out


@pytest.mark.thorough
def test_old_rows_go_by_command(carts, connection):
    carts.ok("rebuild", "--blue-green")
    connection.execute(
        "INSERT INTO esops.actions (id, at, os_user, host, pid, esops, command, subject, projections, options) "
        "SELECT gen_random_uuid(), now() - interval '1 hour', 'u', 'h', 1, '1', 'run', '', '{}', '' "
        "FROM generate_series(1, 1500)"
    )
    carts.ok("run", "--until-caught-up")
    rows = connection.execute(
        "SELECT command, count(*) FROM esops.actions GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert rows == [("rebuild", 1), ("run", 1000)]


@pytest.mark.thorough
def test_what_was_refused_before_it_wrote_is_told_too(carts, connection):
    carts.ok("rebuild", "--blue-green")
    carts.ok("rebuild", "--blue-green")
    carts.ok("projection", "rollback", "cart_summary")
    assert carts.run("projection", "rollback", "cart_summary").code == 6
    assert told(carts)[-1] == ("projection rollback", "cart_summary", "refused")


def test_archive_runs_are_told_from_the_archive_and_a_killed_one_by_its_lease(carts, connection):
    """The shop's own database has no esops schema, and gets none."""
    text = (carts.folder / "esops.toml").read_text()
    carts.write(
        "esops.toml",
        text
        + '\n[archives.cold]\nrepository = "cold"\n[archives.cold.policies.old]\nstore = "shop"\n'
        'never_younger_than = "0s"\nstream = "*"\nremove = "keep"\n',
    )
    assert told(carts) == []
    carts.ok("archive", "run", "old")
    carts.ok("archive", "gc")
    carts.patch(
        "import time; from esops.archive import run; run.checkpoint_guard.check_despite = lambda *_: time.sleep(60)"
    )
    process = carts.start("archive", "run", "old")
    until(lambda: told(carts)[-1][2] == "running", every=0.2)
    kill(process)
    assert told(carts) == [
        ("archive run", "old", "done"),
        ("archive gc", "", "done"),
        ("archive run", "old", "ended without a word"),
    ]
    assert connection.execute("SELECT to_regnamespace('esops')").fetchone() == (None,)


def test_an_erasure_is_recorded_where_there_is_a_place_and_says_where_there_is_none(
    carts, connection
):
    """No schema is made for it, and no condition of it is written down."""
    text = (carts.folder / "esops.toml").read_text()
    text += '[erase.clients]\nstore = "shop"\nmask = { "ClientId" = "null" }\n'
    carts.write("esops.toml", text)
    client = connection.execute(
        "SELECT data->>'ClientId' FROM shop.mt_events WHERE version = 1 LIMIT 1"
    ).fetchone()[0]
    done = carts.run("erase", "--where", f"ClientId={client}", "--yes")
    assert done.code in (0, 1), done.err
    assert done.err.count("esops history will not show this") == 1
    assert connection.execute("SELECT to_regnamespace('esops')").fetchone() == (None,)
