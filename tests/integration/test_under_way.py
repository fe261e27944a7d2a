"""What can be seen from a second terminal: why a rebuild stands, who paused what, and what limits
it.
"""

from __future__ import annotations

import re

import pytest

from tests.support import shop
from tests.support.waiting import end, finish, heard, kill, until

OTHER = shop.PROJECTION.replace('"status": kind.rpartition("_")[2]', '"status": kind.upper()')
NAME = "cart_summary"


@pytest.fixture
def carts(dsn, connection, project):
    shop.make(dsn, 2_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    return project


def followed(connection) -> bool:
    (locks,) = connection.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = "
        "'advisory' AND starts_with(application_name, 'esops ') AND mode = 'ExclusiveLock'"
    ).fetchone()
    return locks > 0


@pytest.mark.thorough
def test_a_rebuild_that_stopped_for_differences_says_so_wherever_one_looks(carts, dsn):
    shop.configure(carts, dsn, code=OTHER)
    stopped = carts.run("rebuild", "--blue-green")
    assert stopped.code == 1
    (proposed,) = re.findall(r"--resume --max-diff (\d+%?)\. ", stopped.out)
    line = (
        "rebuild 2 of cart_summary is paused: the verification found differences; if the "
        "differences are what you want, continue with: esops rebuild cart_summary --blue-green "
        f"--resume --max-diff {proposed}, or drop it"
    )
    for command in (("status",), ("projection", "show", NAME), ("projection", "list")):
        assert line in carts.ok(*command).out, command
    shown = carts.ok("projection", "show", NAME, "--output", "json").json
    assert shown["unfinished"]["reason"] == "the verification found differences"
    assert shown["unfinished"]["resume"] == f"esops rebuild {NAME} --blue-green --resume"
    (row,) = carts.ok("status", "--output", "json").json["rebuilds"]
    assert row["reason"] == "the verification found differences"
    assert row["unfinished"] == shown["unfinished"]
    assert row["unfinished"]["max_diff"] == proposed
    resume = ["rebuild", "--blue-green", "--resume"]
    preview = carts.ok(*resume, "--dry-run").out
    assert "it is paused: the verification found differences" in preview
    assert f"--max-diff {proposed}" in preview
    assert "compare again" not in carts.ok(*resume, "--max-diff", proposed, "--dry-run").out
    carts.ok(*resume, "--max-diff", proposed)
    assert "paused" not in carts.ok("status").out
    assert carts.ok("projection", "show", NAME, "--output", "json").json["unfinished"] is None


@pytest.mark.thorough
def test_a_pause_says_that_readers_see_nothing_new_and_is_seen_from_a_second_terminal(
    carts, connection
):
    host = carts.start("run")
    try:
        until(lambda: followed(connection))
        second = carts.run("run", "--until-caught-up")
        assert (second.code, "nothing is left to do here" in second.err) == (4, True)
        said = carts.ok("projection", "pause", NAME).out
        assert "`esops run` does for v1, which serves" in said
        assert "Readers see nothing new" in said
        shown = carts.ok("projection", "show", NAME, "--output", "json").json
        paused = shown["paused"]
        assert paused["by"].startswith("esops ")
        assert "which serves" in carts.ok("projection", "throttle", NAME, "--max-rate", "50").out
        carts.ok("projection", "pause", NAME)
        now = carts.ok("projection", "show", NAME, "--output", "json").json
        assert now["paused"] == paused, "who limits it has not paused it"
        assert now["limits"] == {"max_rate": 50}
        for command in (("status",), ("projection", "show", NAME), ("projection", "list")):
            out = carts.ok(*command).out
            assert f"paused by {paused['by']} since" in out, command
            assert " UTC" in out, command
            assert "limited to --max-rate 50" in out, command
        (version,) = carts.ok("status", "--output", "json").json["projections"]
        assert (version["paused"], version["limits"]) == (paused, {"max_rate": 50})
        assert "lag_time" in carts.ok("status").out
        assert "--max-rate 50" in carts.ok("projection", "throttle", NAME).out
        carts.ok("projection", "resume", NAME)
        carts.ok("projection", "throttle", NAME, "--off")
        out = carts.ok("status").out
        assert "paused" not in out
        assert "limited" not in out
    finally:
        end(host)


def test_a_rebuild_whose_process_was_killed_is_not_shown_like_one_that_works(carts, connection):
    begun = carts.start("rebuild", "--blue-green", "--max-rate", "100")
    until(
        lambda: connection.execute(
            "SELECT count(*) FROM esops.rebuilds WHERE state = 'catching-up'"
        ).fetchone()[0]
    )
    (row,) = carts.ok("status", "--output", "json").json["rebuilds"]
    assert row["unfinished"]["works"]
    assert "no process works on it" not in carts.ok("status").out
    kill(begun)
    until(lambda: "no process works on it" in carts.ok("status").out)
    assert 'esops_rebuild{projection="cart_summary",state="stopped"} 1.0' in carts.ok("metrics").out
    assert "no process works on it" in carts.ok("projection", "show", NAME).out


@pytest.mark.thorough
def test_a_rebuild_that_is_stopped_says_the_whole_command_and_resumes_with_its_limits(
    carts, connection
):
    begun = carts.start("rebuild", "--blue-green", "--max-rate", "100")
    until(
        lambda: connection.execute(
            "SELECT count(*) FROM esops.rebuilds WHERE state = 'catching-up'"
        ).fetchone()[0]
    )
    _, err = end(begun)
    assert f"esops rebuild {NAME} --blue-green --resume" in err
    again = carts.start("rebuild", "--blue-green", "--resume")
    heard(again, "limited to --max-rate 100")
    carts.ok("projection", "throttle", NAME, "--max-rate", "1000000")
    finish(again)
    assert again.returncode == 0


@pytest.mark.thorough
def test_versions_without_tables_are_not_shown_as_if_they_had_some(carts):
    carts.ok("rebuild", "--blue-green")
    carts.ok("projection", "retire", NAME, "1", "--yes")
    shown = carts.ok("projection", "show", NAME).out
    assert "cart_summary__v2" in shown
    assert "cart_summary__v1" not in shown
    assert re.search(r"\d\d:\d\d:\d\dZ", shown), "times are UTC, and say so"
    assert "retired" in carts.ok("projection", "versions", NAME).out
