"""Archived runs that are sealed under another name than that of the store's section."""

from __future__ import annotations

import json
import uuid

import orjson
import psycopg
import pytest

from esops.archive.run import run as run_policy
from esops.config import load_config
from esops.events import NewEvent
from esops.settings import EventStoreDBSettings, PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten, messagedb
from tests.support.cases import thorough_but
from tests.support.databases import database
from tests.support.esdb import Nodes
from tests.support.project import Result

ANN = {"customerId": 42, "name": "Ann Miller"}
RULE = {"where": "customerId", "mask": {"name": "text:erased"}}


@pytest.fixture
def other_dsn(server):
    with database(server) as dsn:
        yield dsn


MAKE = {"marten": marten.create, "emmett": emmett.create, "message-db": messagedb.create}
EACH = thorough_but(MAKE, "marten")


def new(**data) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), "registered", orjson.dumps(data))


def fill(dsn: str, number: int = 1) -> None:
    """Two streams of three events; a stream's name is a number, as Marten wants."""
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for stream in range(number, number + 2):
            store.append(str(uuid.UUID(int=stream)), [new(n=n, **ANN) for n in range(3)])


def configure(project, stores: dict, of: str = "s", rule: str | None = None) -> None:
    sections = {name: {"append": "quick", **store} for name, store in stores.items()}
    policy = {"store": of, "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    more = {} if rule is None else {"erase": {"customer": {"store": rule, **RULE}}}
    archives = {"cold": {"repository": "cold", "policies": {"old": policy}}}
    project.configure(stores=sections, archives=archives, **more)


def archive(project) -> str:
    return str(run_policy(load_config(project.folder / "esops.toml"), "old").run)


def events(project, name: str) -> int:
    with open_store(*load_config(project.folder / "esops.toml").store(name)) as store:
        return sum(len(batch.events) for batch in store.read_all())


def erase(project, *arguments: str) -> Result:
    return project.run("erase", "--where", "customerId=42", "--output", "json", *arguments)


def codes(project) -> list[str]:
    found = project.run("doctor", "--output", "json").json["findings"]
    return [each["code"] for each in found]


@pytest.mark.parametrize("layout", EACH)
def test_two_sections_of_one_database_miss_nothing(layout, project, dsn, connection):
    MAKE[layout](connection)
    fill(dsn)
    sections = {"s": {"dsn": dsn}, "j": {"dsn": dsn, "archive": "cold"}}
    configure(project, sections)
    run = archive(project)
    fill(dsn, 3)
    refused = project.run("events", "--store", "j")
    assert refused.code == 6
    assert run in refused.err
    assert 'of = "s"' in refused.err
    assert "ESOPS-D076" in codes(project)
    sections["j"]["of"] = "s"
    configure(project, sections)
    assert events(project, "j") == 12
    del sections["s"]
    configure(project, sections, of="j")
    archive(project)
    refused = project.run("events", "--store", "j")
    assert refused.code == 6
    assert 'of = ["s", "j"]' in refused.err or 'of = "j"' in refused.err
    sections["j"]["of"] = ["s", "j"]
    configure(project, sections, of="j")
    assert events(project, "j") == 12
    assert "ESOPS-D076" not in codes(project)


def test_a_rebuild_counts_runs_under_another_name(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    configure(project, {"s": {"dsn": dsn}})
    archive(project)
    project.write(
        "people.py",
        """
        from esops import fold
        @fold(key="stream")
        def people(row, event):
            return {"id": event.stream, "n": (row or {"n": 0})["n"] + 1}
        """,
    )
    project.write("people.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n int)")
    projection = {
        "store": "renamed",
        "python": "people:people",
        "tables": ["people"],
        "ddl": "people.sql",
    }
    archives = {"cold": {"repository": "cold"}}
    project.configure(
        stores={"renamed": {"dsn": dsn, "append": "quick"}},
        archives=archives,
        projections={"people": projection},
    )
    refused = project.run("rebuild", "people", "--blue-green")
    assert refused.code == 6
    assert "6 events of 2 streams were archived and removed" in refused.err
    assert "ESOPS-D049" in codes(project)


def test_an_erasure_finds_runs_under_another_name(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    configure(project, {"s": {"dsn": dsn}})
    run = archive(project)
    fill(dsn, 3)
    for stores in ({"s": {"dsn": dsn}, "t": {"dsn": dsn}}, {"t": {"dsn": dsn}}):
        configure(project, stores, of="t", rule="t")
        plan = erase(project, "--store", "t", "--dry-run")
        assert (plan.json["archives"], plan.json["archived_events"]) == (1, 6), plan.err
    done = erase(project, "--yes")
    assert (done.code, done.json["archives"]) == (0, 1), done.err
    left = project.ok(
        "archive", "query", "SELECT count(*) FROM events WHERE data::text LIKE '%Ann%'"
    )
    assert "Ann" not in left.out
    assert project.ok("archive", "verify", run)


def seal_without_mark(project, run: str) -> None:
    """As an earlier esops did."""
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Run

    repository = Repository(load_config(project.folder / "esops.toml").archives["cold"])
    found = Run(repository, run)
    document = json.loads(repository.get(found.path("manifest.json")))
    found.note("manifest.json", {**document, "log": None})


def test_what_cannot_be_told_is_refused(project, dsn, connection, other_dsn):
    marten.create(connection)
    fill(dsn)
    configure(project, {"s": {"dsn": dsn}})
    seal_without_mark(project, archive(project))
    fill(dsn, 3)
    configure(project, {"t": {"dsn": dsn, "archive": "cold"}}, of="t", rule="t")
    for command in (["events"], ["erase", "--where", "customerId=42", "--dry-run"]):
        refused = project.run(*command, "--store", "t")
        assert refused.code == 6
        assert "'s'" in refused.err
        assert "[stores.s]" in refused.err
    assert "ESOPS-D076" in codes(project)
    # Of a section that names the same place, nothing need be told.
    stores = {"s": {"dsn": dsn}, "t": {"dsn": dsn, "archive": "cold"}}
    configure(project, stores)
    assert project.run("events", "--store", "t").code == 6
    # A section that names another place is another store's.
    with psycopg.connect(other_dsn, autocommit=True) as other:
        marten.create(other)
    configure(project, {**stores, "s": {"dsn": other_dsn}})
    assert events(project, "t") == 6


def test_two_databases_share_a_repository(project, dsn, connection, other_dsn):
    """Positions and streams of both are the same numbers, and both have removed them."""
    both = {"s": dsn, "o": other_dsn}
    with psycopg.connect(other_dsn, autocommit=True) as other:
        for on in (connection, other):
            marten.create(on)
    for name, address in both.items():
        fill(address)
        configure(project, {name: {"dsn": address}}, of=name)
        archive(project)
    for name, address in both.items():
        fill(address, 3)
        # As two services do: neither esops.toml names the other's store.
        configure(project, {name: {"dsn": address, "archive": "cold"}}, of=name, rule=name)
        assert events(project, name) == 12
        assert "ESOPS-D076" not in codes(project)
        plan = erase(project, "--dry-run")
        assert plan.json["archived_events"] == 6, plan.err
    sections = {name: {"dsn": address, "archive": "cold"} for name, address in both.items()}
    configure(project, sections)
    assert [events(project, name) for name in both] == [12, 12]


@pytest.mark.parametrize("told", thorough_but([{"of": ["s", "t"]}, {}], {}), ids=["of", "log"])
def test_a_restore_knows_the_runs_of_a_renamed_section(told, project, dsn, connection):
    marten.create(connection)
    renamed = {"t": {"dsn": dsn, "archive": "cold", **told}}
    name = str(uuid.UUID(int=1))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("00000000-0000-0000-0000-0000000000ff", [new()])
        fill(dsn)
        configure(project, {"s": {"dsn": dsn}})
        older = archive(project)
        connection.execute("UPDATE mt_streams SET is_archived = false")
        store.append(name, [new(n=3), new(n=4)])
        configure(project, renamed, of="t")
        newer = archive(project)
        # It would leave a live stream without its newer events.
        refused = project.run("archive", "restore", older, "--yes")
        assert (refused.code, f"{newer}, then {older}" in refused.err) == (6, True), refused.err
        project.ok("archive", "verify", "--against-store")
        back = project.run("archive", "restore", newer, "--yes", "--output", "json")
        assert (back.code, back.json["restore_next"]) == (1, [older])
        project.ok("archive", "restore", older, "--yes")
        assert [event.version for event in store.read_stream(name)] == [1, 2, 3, 4, 5]
        # What a newer run under another name has masked does not come back.
        connection.execute("UPDATE mt_events SET data = '{}' WHERE stream_id = %s", (name,))
        masked = archive(project)
        refused = project.run("archive", "restore", older, name, "--yes")
        assert (refused.code, f"restore {masked}" in refused.err) == (6, True), refused.err
        assert list(store.read_stream(name)) == []


@pytest.mark.thorough
def test_a_run_that_a_renamed_section_left_unfinished_is_resumed_and_its_streams_are_found(
    project, dsn, connection
):
    marten.create(connection)
    fill(dsn)
    connection.execute("INSERT INTO mt_event_progression VALUES ('Trip:All', 1)")
    configure(project, {"s": {"dsn": dsn}})
    assert project.run("archive", "run", "old").code == 6, "sealed, and waits for a reader"
    connection.execute("DELETE FROM mt_event_progression")
    configure(project, {"t": {"dsn": dsn, "of": ["s", "t"]}}, of="t")
    (unfinished,) = project.ok("archive", "list", "--output", "json").json
    project.ok("archive", "plan", "old")
    assert archive(project) == unfinished["run"]
    assert unfinished["run"] in project.run("audit", "stream", str(uuid.UUID(int=1))).err
    # What the store does not have any more, a policy may name all the same.
    project.ok("archive", "run", "old", "--remove", "keep")
    assert "ESOPS-D051" not in codes(project)


@pytest.mark.parametrize("layout", EACH)
def test_what_came_back_at_new_positions_is_read_once_under_any_name(
    layout, project, dsn, connection
):
    MAKE[layout](connection)
    fill(dsn)
    configure(project, {"s": {"dsn": dsn}})
    run = archive(project)
    if layout == "message-db":  # which keeps the last event of each stream
        connection.execute("DELETE FROM message_store.messages")
    fill(dsn, 3)
    configure(project, {"t": {"dsn": dsn, "archive": "cold", "of": ["s", "t"]}}, of="t")
    project.ok("archive", "restore", run, "--renumber", "--yes")
    assert events(project, "t") == 12
    project.ok("archive", "verify", "--against-store")


def test_a_restore_knows_the_runs_of_other_archives(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    name = str(uuid.UUID(int=1))
    policy = {"store": "s", "stream": "*", "remove": "delete", "never_younger_than": "0s"}
    archives = {each: {"repository": each, "policies": {each: policy}} for each in ("cold", "warm")}
    stores = {"s": {"dsn": dsn, "append": "quick", "archive": "cold"}}
    project.configure(stores=stores, archives=archives)

    def run(archive: str) -> str:
        return project.ok("archive", "run", archive, "--output", "json").json["run"]

    def restored(run: str, archive: str, *options: str) -> Result:
        return project.run("archive", "restore", run, "--archive", archive, "--yes", *options)

    older = run("cold")
    connection.execute("UPDATE mt_streams SET is_archived = false")
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append(name, [new(n=4)])
    newer = run("warm")
    refused = restored(older, "cold")
    assert (refused.code, f"{newer} --archive warm, then {older}" in refused.err) == (6, True)
    assert restored(newer, "warm").code == 1
    assert restored(older, "cold").code == 0
    # It is archived once more, and comes back at new positions: whoever joins the other archive
    # has to know.
    last = run("warm")
    assert restored(last, "warm", "--renumber").code == 0
    assert events(project, "s") == 7


def test_a_stream_that_goes_on_at_home_is_not_restored_into_another_kind(project, dsn, connection):
    marten.create(connection)
    fill(dsn)
    messagedb.create(connection)
    configure(project, {"s": {"dsn": dsn, "schema": "public"}})
    run = archive(project)
    sections = {"s": {"dsn": dsn, "schema": "public"}, "m": {"dsn": dsn, "schema": "message_store"}}
    configure(project, sections)
    connection.execute("UPDATE mt_streams SET is_archived = FALSE")
    with open_store("s", PostgresSettings(dsn=dsn, schema="public")) as store:
        store.append(str(uuid.UUID(int=1)), [new(n=3)])
    into = ("archive", "restore", run, "--into", "m", "--yes")
    refused = project.run(*into)
    assert (refused.code, "it would look complete" in refused.err) == (6, True), refused.err
    assert project.run(*into, "--skip-conflicts").code == 1
    streams = "SELECT stream_name, count(*) FROM message_store.messages GROUP BY 1"
    assert connection.execute(streams).fetchall() == [(str(uuid.UUID(int=2)), 3)]


@pytest.mark.thorough
def test_a_renamed_section_of_a_server_misses_nothing(project):
    with Nodes() as nodes:
        node = {"backend": "eventstoredb", "uri": nodes.uri}
        with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
            store.append("order-1", [new(**ANN)])
        policy = {"store": "s", "stream": "order-*", "remove": "delete", "never_younger_than": "0s"}
        archives = {"cold": {"repository": "cold", "policies": {"old": policy}}}
        project.configure(stores={"s": node}, archives=archives)
        archive(project)
        joined = {**node, "archive": "cold"}
        project.configure(stores={"t": joined}, archives={"cold": {"repository": "cold"}})
        assert 'of = "s"' in project.run("events").err
        of = {"t": {**joined, "of": "s"}}
        project.configure(stores=of, archives={"cold": {"repository": "cold"}})
        assert [each["stream"] for each in project.ok("events", "--output", "json").json] == [
            "order-1"
        ]
