"""A store that is joined with an archive of which something is not there: nothing is read, and
nothing is built, with events missing and without a word.
"""

from __future__ import annotations

import shutil
import uuid

import pytest

from esops.archive.run import RunRequest
from esops.archive.run import run as run_policy
from esops.config import load_config
from esops.events import NewEvent
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from esops.stores.archive.beginnings import check_begins, without_beginning
from tests.integration.test_archive import of, write
from tests.integration.test_other_readers import (
    PEOPLE,
    PEOPLE_TABLE,
    append,
    people,
    prepare,
)
from tests.support import emmett, marten, messagedb
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes

HEADS = 'store = "s"\nstream = "a-*"\nremove = "delete"\nuntil = "B"'
WHOLE = 'store = "s"\nstream = "a-*"\nremove = "delete"'
JOINED = 'append = "quick"\narchive = "cold"'
OTHERS = {"emmett": emmett, "message-db": messagedb}
REBUILD = ("rebuild", "people", "--blue-green")


@pytest.fixture
def streams(project, connection):
    prepare(project, connection)
    append(connection, "a-1", "A", "A", "B", "A")
    append(connection, "b-1", "A", "B", "A")
    return project


def configure(project, dsn: str, policy: str, more: str = "") -> None:
    write(project, of(dsn, more=JOINED), policy, people("s") + more)


def counts(connection) -> dict[str, int]:
    return dict(connection.execute("SELECT id, n FROM people").fetchall())


def archive(project, policy: str = "old", new: bool = False) -> str:
    """Run a policy to its end; returns the name of the run."""
    request = RunRequest(new_archive=new)
    done = run_policy(load_config(project.folder / "esops.toml"), policy, request)
    assert done.state == "done"
    return str(done.run)


def refuses(project, *words: str, reads: bool = True) -> None:
    """A rebuild refuses, and so does a read where `reads`."""
    for command in (REBUILD, ("events", "--store", "s"))[: 1 + reads]:
        refused = project.run(*command)
        assert refused.code == 6, (command, refused.out, refused.err)
        assert all(word in refused.err for word in words), refused.err


def test_an_archive_that_is_empty_is_refused(streams, dsn, connection):
    configure(streams, dsn, HEADS)
    archive(streams)
    cold, elsewhere = streams.folder / "cold", streams.folder / "elsewhere"
    shutil.move(cold, elsewhere)
    cold.mkdir()
    refuses(streams, "there is no archive in", "no run has ever begun in it")
    refused = streams.run("archive", "run", "old")
    assert (refused.code, "'a-1' are not in store s any more" in refused.err) == (6, True)
    assert not any(cold.rglob("*"))
    cold.rmdir()
    assert streams.run("archive", "run", "old").code == 6
    assert not cold.exists()
    shutil.move(elsewhere, cold)
    streams.ok(*REBUILD)
    assert counts(connection) == {"a-1": 4, "b-1": 3}


@pytest.mark.thorough
@pytest.mark.parametrize("policy", [HEADS, WHOLE], ids=["heads", "whole"])
def test_an_archive_that_is_empty_is_not_a_new_one(streams, dsn, connection, policy):
    configure(streams, dsn, policy)
    cold, elsewhere = streams.folder / "cold", streams.folder / "elsewhere"
    # Truly new: the first run makes it, though it selects nothing.
    assert streams.run(*REBUILD).code == 3
    write_new = policy + "\nmin_length = 99"
    configure(streams, dsn, write_new)
    streams.ok("archive", "run", "old")
    streams.ok("rebuild", "people", "--blue-green", "--dry-run")
    configure(streams, dsn, policy)
    archive(streams)
    shutil.move(cold, elsewhere)
    cold.mkdir()
    refuses(streams, "there is no archive in", "no run has ever begun in it")
    assert streams.run("events", "--store", "cold").code == 6
    # A run makes no new one there on its own, joined or not, nor where the folder is gone.
    configure(streams, dsn, write_new)
    for settings in (JOINED, 'append = "quick"'):
        write(streams, of(dsn, more=settings), write_new, people("s"))
        refused = streams.run("archive", "run", "old")
        assert refused.code == 6, (refused.out, refused.err)
        told = streams.ok("archive", "plan", "old", "--output", "json").json["no_archive"]
        for text in (refused.err, told):
            assert "'a-1' are not in store s any more" in text
        assert not any(cold.rglob("*"))
        found = streams.run("doctor", "--output", "json").json["findings"]
        assert "ESOPS-D090" in {each["code"] for each in found}
    cold.rmdir()
    assert streams.run("archive", "run", "old").code == 6
    assert not cold.exists()
    configure(streams, dsn, write_new)
    # Somebody lets it do so.
    streams.ok("archive", "run", "old", "--new-archive")
    refuses(streams, "the first events of stream 'a-1' are not in store s", reads=False)
    found = streams.run("doctor", "--output", "json").json["findings"]
    assert "ESOPS-D049" in {each["code"] for each in found}
    streams.ok(*REBUILD, "--without-archived", "--dry-run")
    shutil.rmtree(cold)
    shutil.move(elsewhere, cold)
    streams.ok(*REBUILD)
    assert counts(connection) == {"a-1": 4, "b-1": 3}


def test_a_run_that_is_lost_is_missed(streams, dsn, connection):
    configure(streams, dsn, HEADS)
    name = archive(streams)
    folder = streams.folder / "cold" / "runs" / name
    kept = {each: each.read_bytes() for each in folder.glob("*.json")}
    (folder / "manifest.json").unlink()
    refuses(streams, f"run {name} in", "its manifest is gone")
    found = streams.run("doctor", "--output", "json").json["findings"]
    assert "ESOPS-D032" in {each["code"] for each in found}
    (listed,) = streams.ok("archive", "list", "--output", "json").json
    assert listed["state"] == "damaged"
    for each in kept:
        each.unlink(missing_ok=True)
    refuses(streams, f"run {name} in")
    assert streams.run("events", "--store", "cold").code == 6
    # Nor is it forgotten where the store is not joined, and would be read alone.
    write(streams, of(dsn), HEADS, people("s"))
    refuses(streams, f"run {name} in", reads=False)
    configure(streams, dsn, HEADS)
    for each, content in kept.items():
        each.write_bytes(content)
    streams.ok(*REBUILD)
    assert counts(connection) == {"a-1": 4, "b-1": 3}


@pytest.mark.parametrize("by", thorough_but(["alias", "s"], "alias"))
def test_an_archive_is_asked_though_its_policies_name_another_store_today(
    streams, dsn, connection, by
):
    """By an alias of the same database, or of a store that they have not named before."""
    marten.create(connection, marten.Variant(text_ids=True, schema="o"))
    more = 'append = "quick"\nschema = '
    stores = of(dsn, more=more + '"public"') + of(dsn, "alias", more + '"public"')
    stores += of(dsn, "other", more + '"o"')
    cold, elsewhere = streams.folder / "cold", streams.folder / "elsewhere"
    policy = WHOLE.replace('"s"', f'"{by}"')
    write(streams, stores, policy, people("s"))
    name = archive(streams)
    refuses(streams, "4 events of 1 stream were archived and removed", reads=False)
    write(streams, stores, policy.replace(f'"{by}"', '"other"'), people("s"))
    refuses(streams, "4 events of 1 stream were archived and removed", reads=False)
    shutil.move(cold, elsewhere)
    assert streams.run(*REBUILD).code == 6
    shutil.move(elsewhere, cold)
    seal = cold / "runs" / name / "manifest.json"
    kept = seal.read_bytes()
    seal.unlink()
    refuses(streams, f"run {name} in", reads=False)
    seal.write_bytes(kept)
    streams.ok("archive", "restore", name, "--into", "s", "--yes")


def test_runs_in_an_archive_that_is_not_joined_are_away(streams, dsn, connection):
    warm = HEADS.replace("a-*", "b-*")
    more = f"[archives.warm]\nrepository = 'warm'\n[archives.warm.policies.w]\n{warm}\n"
    more += "never_younger_than = '0s'\n"
    configure(streams, dsn, HEADS, more)
    archive(streams)
    run = archive(streams, "w", new=True)
    refuses(streams, "1 event of 1 stream were archived and removed", "archive warm", reads=False)
    assert "joined with archive cold alone" in streams.run(*REBUILD).err
    assert streams.run("rebuild", "people", "--yes").code == 6
    found = streams.run("doctor", "--output", "json").json["findings"]
    assert "ESOPS-D049" in {each["code"] for each in found}
    # As the hint says: what both have is not away.
    for folder in ("runs", "catalog"):
        copied = streams.folder / "cold" / folder
        shutil.copytree(streams.folder / "warm" / folder, copied, dirs_exist_ok=True)
    assert (streams.folder / "cold" / "runs" / run).is_dir()
    streams.ok(*REBUILD)
    assert counts(connection) == {"a-1": 4, "b-1": 3}


def test_emmetts_list_of_streams_shows_what_is_gone(project, dumps, dsn, connection):
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        assert not list(without_beginning(store))
        (stream,) = connection.execute("SELECT min(stream_id) FROM emt_streams").fetchone()
        connection.execute("DELETE FROM emt_messages WHERE stream_id = %s", (stream,))
        assert [each.key.stream for each in without_beginning(store)] == [stream]


@pytest.mark.parametrize(
    "layout",
    thorough_but(["marten", "emmett", "message-db"], "marten"),
)
def test_an_older_copy_of_an_archive_is_missed(layout, project, dsn, connection):
    """The newer run took versions that nothing else has; the stream itself has newer ones."""
    prepare(project, connection) if layout == "marten" else OTHERS[layout].create(connection)
    project.write("people.py", PEOPLE)
    project.write("people.sql", PEOPLE_TABLE)
    own = {"append": "quick"} if layout == "marten" else {}
    policy = HEADS.replace('until = "B"', "keep_last = 1") if layout == "message-db" else HEADS
    more = JOINED if own else 'archive = "cold"'
    write(project, of(dsn, more=more), policy, people("s"))
    with open_store("s", PostgresSettings(dsn=dsn, **own)) as s:
        first = s.capabilities.first_version
        append_to(s, "b-1", "A")
        append_to(s, "a-1", "A", "A", "B")
        old = archive(project)
        shutil.copytree(project.folder / "cold", project.folder / "old")
        append_to(s, "a-1", "A", "B")
        assert archive(project) != old
    with open_store(*load_config(project.folder / "esops.toml").store("s")) as joined:
        check_begins(joined, joined)
        newest = next(joined.hot.read_stream("a-1")).version
        assert newest > first + 2
    shutil.rmtree(project.folder / "cold")
    shutil.move(project.folder / "old", project.folder / "cold")
    lost = f"versions {first + 2} to {newest - 1} of stream"
    refuses(project, lost, "older copy", reads=False)
    found = project.run("doctor", "--output", "json").json["findings"]
    assert any(each["code"] == "ESOPS-D049" and lost in each["message"] for each in found)
    project.ok(*REBUILD, "--without-archived", "--dry-run")


def test_an_older_copy_is_missed_where_a_list_of_streams_shows_it(streams, dsn):
    configure(streams, dsn, WHOLE)
    archive(streams)
    shutil.copytree(streams.folder / "cold", streams.folder / "old")
    configure(streams, dsn, WHOLE.replace("a-*", "b-*"))
    archive(streams)
    streams.ok(*REBUILD, "--dry-run")
    shutil.rmtree(streams.folder / "cold")
    shutil.move(streams.folder / "old", streams.folder / "cold")
    refuses(streams, "versions 1 to 3 of stream 'b-1'", reads=False)


def test_a_nodes_truncated_streams_begin_late_once_they_are_scavenged():
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as s:
        append_to(s, "a-1", "A", "A", "B")
        append_to(s, "b-1", "A")
        assert not list(s.losses.late_beginnings())
        s.changes.truncate("a-1", 2)
        assert not list(s.losses.late_beginnings())
        assert [seen.result for seen in s.admin.scavenge()][-1] == "Success"
        assert [
            (each.key.stream, each.below, each.type) for each in s.losses.late_beginnings()
        ] == [("a-1", 2, "B")]


def append_to(store, stream: str, *types: str) -> None:
    store.append(stream, [NewEvent(str(uuid.uuid4()), each, b"{}") for each in types])
