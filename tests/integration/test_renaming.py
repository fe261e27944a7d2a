"""`projection rename`: a new name in esops.toml takes along all that the registry has, or nothing."""

from __future__ import annotations

import os
import signal

import pytest

from esops.archive.checkpoint_guard import behind
from esops.config import load_config
from esops.readmodel import locks
from esops.stores import open_store
from tests.support import shop
from tests.support.waiting import end, until

OLD, NEW = "old_carts", "carts"
RENAME = ("projection", "rename", OLD, NEW)


def name_it(project, name: str) -> None:
    """Rename the projection in esops.toml."""
    text = (project.folder / "esops.toml").read_text()
    for each in (OLD, NEW, "cart_summary"):
        text = text.replace(f"[projections.{each}]", f"[projections.{name}]")
    project.write("esops.toml", text)


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    name_it(project, OLD)
    project.ok("rebuild", "--blue-green")
    return project


def registry(connection) -> dict[str, set[str]]:
    """The names of projections in each of esops' own tables."""
    tables = connection.execute(
        "SELECT table_name FROM information_schema.columns"
        " WHERE table_schema = 'esops' AND column_name = 'projection'"
    ).fetchall()
    return {
        table: {row[0] for row in connection.execute(f"SELECT projection FROM esops.{table}")}
        for (table,) in tables
    }


def is_right(connection) -> bool:
    """Whether the read model is the fold of all events."""
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    return shop.table(connection, "cart_summary") == shop.truth(connection, last)


def test_a_projection_takes_all_along_and_goes_on(carts, dsn, connection):
    carts.ok("rebuild", "--blue-green")
    carts.run("projection", "pause", OLD)
    connection.execute(
        "INSERT INTO esops.dead_letters (projection, version, position, event_id, stream,"
        " stream_version, type, error) VALUES ('old_carts', 1, '1', 'e', 's', 1, 't', 'why');"
        "INSERT INTO esops.shards (projection, version, shard, of, until)"
        " VALUES ('old_carts', 1, 0, 2, '1');"
        "INSERT INTO esops.older_marks (projection, version, position, mark)"
        " VALUES ('old_carts', 1, '1', '{}');"
        "INSERT INTO esops.spills (projection, version, shard, spill, host, directory, fresh,"
        " partitions) VALUES ('old_carts', 1, 0, 's', 'h', '/none', true, 16);"
        "INSERT INTO esops.erased (projection, version, rows, rules)"
        " VALUES ('old_carts', 1, 1, '{}');"
        "INSERT INTO esops.checks (projection, version, state, asked, host, pid)"
        " VALUES ('old_carts', 1, 'done', '{}', 'h', 1);"
        "INSERT INTO esops.controls (projection, limits) VALUES ('carts', '{\"max_rate\": 5000}')"
    )
    name_it(carts, NEW)
    before = registry(connection)
    shown = carts.ok(*RENAME, "--dry-run", "--output", "json").json
    assert (shown["projection"], shown["renamed_from"], shown["dry_run"]) == (NEW, OLD, True)
    assert [each["state"] for each in shown["versions"]] == ["standby", "active"]
    assert registry(connection) == before
    assert carts.run(*RENAME).code == 2  # nobody to ask
    assert registry(connection) == before
    carts.ok(*RENAME, "--yes")
    after = registry(connection)
    assert after == {table: {NEW} for table in before}
    assert len(after) == 11
    assert connection.execute("SELECT paused, limits FROM esops.controls").fetchall() == [
        (True, {"max_rate": 5000})
    ]
    (note,) = connection.execute(
        "SELECT detail FROM esops.rebuild_log WHERE event = 'renamed'"
    ).fetchone()
    assert note == {"from": OLD, "to": NEW}
    # It goes on where it was, and what comes next does not collide with what is there.
    carts.ok("projection", "resume", NEW)
    connection.execute(
        "DELETE FROM esops.dead_letters; DELETE FROM esops.shards; DELETE FROM esops.spills"
    )
    shop.more(dsn, 20)
    carts.ok("run", "--until-caught-up")
    assert is_right(connection)
    assert carts.ok("rebuild", "--blue-green", "--output", "json").json["to_version"] == 3
    carts.ok("projection", "rollback", NEW)
    carts.ok("projection", "retire", NEW, "--yes")
    assert is_right(connection)


def test_each_reason_against_it_is_one_sentence(carts, connection):
    def refused(code: int, *names: str) -> str:
        result = carts.run("projection", "rename", *names, "--yes")
        assert result.code == code, result.err
        assert registry(connection)["versions"] == {OLD}
        return result.err

    assert "[projections.carts]" in refused(2, OLD, NEW)  # not in esops.toml yet
    refused(2, OLD, OLD)
    text = (carts.folder / "esops.toml").read_text()
    section = text[text.index("[projections.") :]
    carts.write("esops.toml", text + section.replace(OLD, NEW))
    assert f"remove the section [projections.{OLD}]" in refused(2, OLD, NEW)
    carts.write("esops.toml", text)
    name_it(carts, NEW)
    assert f"It knows {OLD}." in refused(2, "no_such", NEW)
    carts.write(
        "esops.toml",
        text.replace(OLD, NEW).replace('tables = ["cart_summary"]', 'tables = ["others"]'),
    )
    refused(6, OLD, NEW)
    # An unfinished rebuild is finished, or ended, by the old name.
    carts.write("esops.toml", text)
    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    assert carts.run("rebuild", "--blue-green").code == 1
    name_it(carts, NEW)
    refused(6, OLD, NEW)
    name_it(carts, OLD)
    carts.ok("rebuild", "--blue-green", "--abort", "--yes")
    name_it(carts, NEW)
    carts.ok(*RENAME, "--yes")
    # There already, and what was renamed is unknown by its old name.
    connection.execute(
        "INSERT INTO esops.versions (projection, version, state, store, tables)"
        " VALUES ('old_carts', 1, 'retired', 'shop', '{}')"
    )
    again = carts.run(*RENAME, "--yes")
    assert again.code == 6
    assert "v1 is active" in again.err


def test_one_that_runs_inside_its_store_cannot_be_renamed(project):
    project.configure(
        stores={"shop": {"backend": "eventstoredb", "uri": "esdb://localhost:1?tls=false"}},
        projections={NEW: {"kind": "server", "javascript": "q.js"}},
    )
    refused = project.run(*RENAME, "--yes")
    assert refused.code == 6, refused.err
    assert f"Keep the name {OLD}" in refused.err


def test_before_the_registry_is_told_nothing_begins_anew(carts, dsn, connection):
    command = "esops " + " ".join(RENAME)
    name_it(carts, NEW)
    shop.more(dsn, 20)
    for arguments, code in (
        (("run", "--until-caught-up"), 2),
        (("rebuild", "--blue-green", "--yes"), 6),
        (("rebuild", "--yes"), 6),
    ):
        refused = carts.run(*arguments)
        assert refused.code == code, refused.err
        assert command in refused.err
    assert command in carts.ok("projection", "show", NEW).out
    shown = carts.run("status", "--output", "json")
    assert shown.code == 1
    assert command in shown.json["projections"][0]["detail"]
    found = carts.run("doctor", "--output", "json").json["findings"]
    codes = {each["code"]: each["fix"] for each in found}
    assert codes["ESOPS-D063"] == command
    assert not {"ESOPS-D064", "ESOPS-D021"} & set(codes)
    # Its events are not removed meanwhile: it has not read them.
    config = load_config(carts.folder / "esops.toml")
    with open_store("shop", config.stores["shop"]) as store:
        (late,) = behind(config, store, "shop", lambda reader: 1)
    assert command.removeprefix("esops ") in str(late)
    assert registry(connection)["versions"] == {OLD}
    carts.ok(*RENAME, "--yes")
    carts.ok("run", "--until-caught-up")
    assert is_right(connection)
    # By a configuration of before, nothing begins anew either.
    name_it(carts, OLD)
    assert carts.run("rebuild", "--blue-green").code == 6
    # One that no projection of this configuration could be is only named.
    carts.write(
        "esops.toml",
        (carts.folder / "esops.toml").read_text().replace('["cart_summary"]', '["others"]'),
    )
    found = carts.run("doctor", "--output", "json").json["findings"]
    assert "rename carts NEW" in next(e["fix"] for e in found if e["code"] == "ESOPS-D064")


@pytest.mark.thorough
def test_rename_while_esops_run_is_alive_with_the_old_name(carts, dsn, connection):
    def follower() -> int | None:
        held = locks.holder(connection, locks.version_lock(OLD, 1))
        return held and int(held.process.rpartition(":")[2])

    host = carts.start("run")
    try:
        until(follower)
        name_it(carts, NEW)
        busy = carts.run(*RENAME, "--yes")
        assert busy.code == 4, busy.err
        assert registry(connection)["versions"] == {OLD}

        # Its process dies, and the host, which is still alive, would start another one.
        def renamed() -> bool:
            pid = follower()
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            return carts.run(*RENAME, "--yes").code == 0

        until(renamed)
        shop.more(dsn, 20)
        carts.ok("run", "--until-caught-up")
        assert is_right(connection)
        assert host.poll() is None
    finally:
        end(host)
    assert registry(connection)["versions"] == {NEW}
    assert connection.execute("SELECT count(*) FROM esops.versions").fetchone() == (1,)


def test_a_kill_at_any_statement_leaves_it_as_it_was_or_as_it_is_to_be(carts, connection):
    name_it(carts, NEW)
    number, seen = 0, []
    while True:
        number += 1
        carts.patch(
            "import os, psycopg\n"
            "from esops.rebuild import renaming\n"
            "real, run, armed = psycopg.Connection.execute, renaming.Renaming.run, []\n"
            "def counted(self, *arguments, **options):\n"
            "    armed.append(1)\n"
            f"    if len(armed) == {number}:\n"
            "        os.kill(os.getpid(), 9)\n"
            "    return real(self, *arguments, **options)\n"
            "def begin(self):\n"
            "    psycopg.Connection.execute = counted\n"
            "    run(self)\n"
            "renaming.Renaming.run = begin\n"
        )
        done = carts.run(*RENAME, "--yes")
        names = {each for of_table in registry(connection).values() for each in of_table}
        assert names in ({OLD}, {NEW})
        seen.append(names)
        if names == {NEW}:
            break
    assert number > 15, "killed at each statement"
    # On a slow machine the last kill may come after the rename, at what is recorded of it.
    assert done.code in (0, -signal.SIGKILL)
    assert is_right(connection)
