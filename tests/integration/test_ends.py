"""What a command says at its end is true: nothing is done, nothing was found, or nobody was asked."""

from __future__ import annotations

import json

import pytest

from tests.support import shop


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, 100)
    shop.configure(project, dsn)
    return project


def states(connection) -> list[str]:
    return [state for (state,) in connection.execute("SELECT state FROM esops.versions")]


def test_requests_that_nobody_hears_are_no_success(carts, connection):
    carts.ok("rebuild", "--blue-green")

    def asked(*what: str) -> tuple[int, str]:
        result = carts.run("projection", *what, "cart_summary")
        return result.code, result.err

    assert asked("resume")[0] == 2, "it is not paused"
    assert asked("switch-now")[0] == 2, "there is nothing to switch"
    code, text = asked("pause")
    assert (code, "no process works on cart_summary" in text) == (1, True)
    assert asked("resume")[0] == 0
    assert asked("postpone")[0] == 1
    assert asked("switch-now")[0] == 0, "it withdraws what was asked of the next one"
    # And of one that is there.
    carts.patch("from esops.rebuild.phases import loading\nloading._BULKY = 0\n")
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    for command in ("pause", "resume", "postpone", "switch-now"):
        assert asked(command)[0] == 0, command


@pytest.mark.thorough
def test_what_resuming_and_aborting_would_do_is_only_said(carts, connection):
    for action in ("--resume", "--abort"):
        assert carts.run("rebuild", "--blue-green", action, "--dry-run").code == 2
    carts.ok("rebuild", "--blue-green")
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    before = states(connection)
    resumed = carts.ok("rebuild", "--blue-green", "--resume", "--dry-run", "--output", "json").json
    assert (resumed["action"], resumed["state"], resumed["drops"]) == ("resume", "following", [])
    said = carts.ok("rebuild", "--blue-green", "--abort", "--dry-run").out
    assert "public.cart_summary__v2" in said
    assert states(connection) == before
    assert carts.run("rebuild", "--resume", "--abort").code == 2


def test_nothing_is_dropped_or_restored_without_being_asked(carts, connection):
    for _ in range(2):
        carts.ok("rebuild", "--blue-green")
    refused = carts.run("projection", "retire", "cart_summary")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert connection.execute("SELECT to_regclass('cart_summary__v1') IS NULL").fetchone() == (
        False,
    )
    text = (carts.folder / "esops.toml").read_text()
    carts.write(
        "esops.toml",
        text + "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\n"
        "category = 'cart'\nremove = 'delete'\nnever_younger_than = '0s'\n",
    )
    # An archive that nobody has made yet.
    assert carts.run("archive", "list").code == 3
    assert carts.run("archive", "verify").code == 3
    shown = carts.ok("status", "--output", "json").json
    assert [each["state"] for each in shown["archives"]] == ["absent"]
    carts.ok("archive", "plan", "old")
    assert not (carts.folder / "cold").exists(), "looking makes nothing"
    run = carts.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
    assert carts.run("archive", "restore", run["run"]).code == 2
    assert connection.execute("SELECT count(*) FROM shop.mt_events").fetchone() == (0,)
    assert {each["code"] for each in doctor(carts)} >= {"ESOPS-D049"}
    for command in (["events", "--stream"], ["audit", "stream"], ["trace", "stream"]):
        told = carts.run(*command, "cart-00000001")
        assert f"archive restore {run['run']} cart-00000001" in told.err, told
        assert "Did you mean" not in told.err
    carts.ok("archive", "restore", run["run"], "--yes")


def doctor(project) -> list:
    return project.run("doctor", "--output", "json").json["findings"]


def test_an_archive_that_is_not_there_is_not_an_empty_one(carts, connection, dsn):
    shop.configure(carts, dsn, projection_options='store = "shop"')
    text = (carts.folder / "esops.toml").read_text()
    cold = "[stores.cold]\nbackend = 'archive'\nrepository = 'cold'\n"
    carts.write("esops.toml", text + cold)
    for command in (["events"], ["audit", "streams"]):
        assert carts.run(*command, "--store", "cold").code == 3
    shown = carts.run("status", "--output", "json")
    assert shown.code == 3
    assert [each["ok"] for each in shown.json["stores"]] == [True, False]
    assert not (carts.folder / "cold").exists()
    (carts.folder / "cold").mkdir()
    assert carts.run("events", "--store", "cold").code == 6
    # A joined store, too, and a rebuild that could not know what was archived.
    (carts.folder / "cold").rmdir()
    archive = "[archives.cold]\nrepository = 'cold'\n"
    joined = text.replace('schema = "shop"', 'schema = "shop"\narchive = "cold"')
    carts.write("esops.toml", joined + archive)
    assert carts.run("rebuild", "--blue-green").code == 3
    policy = "[archives.cold.policies.old]\nstore = 'shop'\ncategory = 'cart'\n"
    carts.write("esops.toml", text + archive + policy)
    # A first build has no version to be compared with, so that nobody would see what is missing.
    for way in (["--blue-green"], ["--blue-green", "--dry-run"], ["--yes"]):
        assert carts.run("rebuild", *way).code == 6, way
    carts.ok("rebuild", "--blue-green", "--without-archived")
    carts.ok("rebuild", "--yes", "--without-archived")
    # An option that would have no effect is not taken.
    carts.ok("archive", "run", "old")
    carts.write("esops.toml", joined + archive)
    for way in ("--blue-green", "--yes"):
        refused = carts.run("rebuild", way, "--without-archived")
        assert (refused.code, "is joined with" in refused.err) == (2, True)


def test_a_configuration_of_nothing_is_not_in_order(project):
    project.write("esops.toml", "")
    assert project.run("status").code == 2
    assert project.run("metrics").code == 2
    result = project.run("doctor", "--output", "json")
    assert (result.code, [each["code"] for each in result.json["findings"]]) == (
        1,
        ["ESOPS-D052"],
    )


def test_formats_and_files_are_what_was_asked_for(carts, connection):
    assert carts.run("metrics", "--output", "json").code == 2
    assert carts.run("events", "-o", "").code == 2
    # Why a projection cannot be read is part of the table.
    carts.ok("rebuild", "--blue-green")
    connection.execute("INSERT INTO esops.schema_migrations (number, esops) VALUES (99, '9.0')")
    shown = carts.run("status")
    assert shown.code == 1
    assert "schema 99" in shown.out
    assert json.loads(carts.run("status", "--output", "json").out)["projections"][0]["detail"]
