"""`esops archive` as its user meets it: what is selected, what is refused, what is said, and what
rebuilds see afterwards.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import orjson
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from esops.archive import policy, writer
from esops.archive.planning import plan
from esops.archive.query import answered
from esops.archive.remover import ArchivedStream, RemovalResult, Remover
from esops.archive.restore import restore
from esops.archive.run import RunRequest, run
from esops.archive_format.hashes import Digest
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.archive_format.schema import Damaged
from esops.config import load_config
from esops.errors import Refused, Stopped
from esops.events import NewEvent, StreamKey, StreamRef
from esops.settings import (
    ArchiveSettings,
    EventStoreDBSettings,
    PolicySettings,
    PostgresSettings,
)
from esops.stores import open_store
from esops.stores.archive import views
from esops.stores.archiving import RemovalStrategy, Removed, VersionRange
from esops.stores.eventstoredb.errors import StreamGone
from tests.support import emmett, eventsourcing, marten, messagedb, shop
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.soak import rounds

FIELDS = {"run", "policy", "state", "streams", "events", "bytes", "removed", "skipped"}


def new(kind: str = "added", **data) -> NewEvent:
    return NewEvent(str(uuid.uuid4()), kind, orjson.dumps(data))


def write(project, stores: str, policy: str, more: str = "") -> None:
    project.write(
        "esops.toml",
        f"{stores}\n[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\n"
        f"never_younger_than = '0s'\n{policy}\n"
        f"[stores.cold]\nbackend = 'archive'\narchive = 'cold'\n{more}",
    )


def of(dsn: str, name: str = "s", more: str = 'append = "quick"') -> str:
    return f"[stores.{name}]\ndsn = {json.dumps(dsn)}\n{more}\n"


def planned(project) -> set[str]:
    """The streams that a run selects, by a plan that lists few."""
    told = project.ok("archive", "plan", "old", "--output", "json").json
    assert told["streams"] <= 5
    return {each["stream"] for each in told["longest"]}


def test_what_a_policy_selects(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, conjoined=True))
    for tenant in ("red", "blue"):
        with open_store("s", PostgresSettings(dsn=dsn, tenant=tenant)) as store:
            store.append("cart-1", [new("opened"), new(), new("confirmed")])
            store.append("cart-2", [new("opened"), new("confirmed"), new("reopened")])
            store.append("order-1", [new("placed")])
    for table in ("mt_events", "mt_streams"):
        connection.execute(
            f"UPDATE {table} SET timestamp = now() - interval '10 days' WHERE tenant_id = 'red'"
        )
    connection.execute("UPDATE mt_streams SET type = 'Cart' WHERE id LIKE 'cart%'")
    cases = {
        'category = "cart"': {"cart-1", "cart-2"},
        'category = "Cart"': {"cart-1", "cart-2"},
        'stream = "*-1"': {"cart-1", "order-1"},
        'stream = "cart-?"\nclosed_by = ["confirmed"]': {"cart-1"},
        'stream = "*"\nmin_length = 3\nidle_for = "9d"': {"cart-1", "cart-2"},
        'stream = "*"\nidle_for = "11d"': set(),
        'stream = "*"\ntenant = "red"\nmin_length = 2': {"cart-1", "cart-2"},
        'stream = "*"\nremove = "delete"\nkeep_last = 1\nuntil = "confirmed"': {"cart-1", "cart-2"},
    }
    for selects, names in cases.items():
        write(project, of(dsn), f'store = "s"\n{selects}')
        told = plan(load_config(project.folder / "esops.toml"), "old")
        assert {each.name for each in told.longest} <= names, selects
        one_tenant = "tenant" in selects or "9d" in selects
        assert told.streams == len(names) * (1 if one_tenant else 2), selects
    assert not (project.folder / "cold" / "runs").exists(), "a plan touches nothing"


def test_a_policy_has_to_say_which_streams(project, dsn, connection):
    write(project, of(dsn), 'store = "s"\nmin_length = 3')
    result = project.run("archive", "plan", "old")
    assert result.code == 2
    assert "category" in result.err
    write(project, of(dsn), 'store = "s"\ncategory = "cart"\nremove = "archve"')
    assert project.run("archive", "plan", "old").code == 2
    write(project, of(dsn), 'store = "s"\ncategory = "cart"')
    assert "Did you mean 'old'" in project.run("archive", "plan", "odl").err
    assert "Did you mean 'delete'" in project.run("archive", "run", "old", "--remove", "delet").err


def test_positions_of_consumers_are_never_archived(project, dsn, connection):
    messagedb.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("account-1", [new("a"), new("b")])
        store.append(
            "account:position-1", [new("Recorded", position=1), new("Recorded", position=2)]
        )
    write(project, of(dsn, more=""), 'store = "s"\nstream = "*"\nremove = "delete"')
    assert planned(project) == {"account-1"}


def test_times_inside_of_payloads_count(project, dsn, connection):
    """Python's eventsourcing has no time beside its states."""
    eventsourcing.create(connection)
    old, young = str(uuid.uuid4()), str(uuid.uuid4())
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for stream, at in (
            (old, datetime.now(UTC) - timedelta(days=30)),
            (young, datetime.now(UTC)),
        ):
            stamp = {"timestamp": {"_type_": "datetime_iso", "_data_": at.isoformat()}}
            store.append(
                stream, [new("bank:Account.Opened", **stamp), new("bank:Account.Closed", **stamp)]
            )
    write(
        project,
        of(dsn, more=""),
        'store = "s"\nstream = "*"\nidle_for = "7d"\nclosed_by = ["Closed"]',
    )
    assert planned(project) == {old}


def test_one_line_for_cron_and_documented_fields(project, dsn, connection):
    shop.make(dsn, 200)
    connection.execute("SET search_path = shop")
    marten.create_archive_function(connection, marten.Variant(schema="shop", text_ids=True))
    write(
        project,
        of(dsn, more='schema = "shop"'),
        'store = "s"\ncategory = "cart"\nremove = "archive"',
    )
    connection.execute("ALTER FUNCTION shop.mt_archive_stream RENAME TO away")
    assert (
        "no function mt_archive_stream in schema shop" in project.run("archive", "plan", "old").err
    )
    connection.execute("ALTER FUNCTION shop.away RENAME TO mt_archive_stream")
    plan = project.ok("archive", "plan", "old").out
    assert "20 streams with 200 events" in plan
    assert 'SELECT "shop"."mt_archive_stream"' in plan
    done = project.ok("archive", "run", "old", "--prove", "--quiet")
    assert len(done.out.splitlines()) == 1
    assert done.err == ""
    assert "a restore tried with 200 of them" in done.out
    assert "200 events of 20 streams removed (archive)" in done.out
    again = project.ok("archive", "run", "old", "--output", "json").json
    assert again.keys() >= FIELDS
    assert (again["run"], again["state"]) == (None, "nothing")
    listed = project.ok("archive", "list", "--output", "json").json
    assert [(each["state"], each["events"], each["removed"]) for each in listed] == [
        ("done", 200, 20)
    ]
    name = listed[0]["run"]
    assert len(project.ok("archive", "show", name, "--streams").out.splitlines()) == 20
    shown = project.ok("archive", "show", name, "--output", "json").json
    assert (shown["layout"], shown["tried"]) == ("marten", 200)
    verified = project.ok("archive", "verify", name, "--against-store", "--output", "json").json
    assert verified.keys() >= {"run", "ok", "files", "problems"}
    assert "1 of 1 files" in project.ok("archive", "verify", "--sample", "10%").out
    status = project.ok("status", "--output", "json").json["archives"]
    assert [(each["archive"], each["policy"], each["state"]) for each in status] == [
        ("cold", "cold/old", "done")
    ]
    assert (
        'esops_archive_run{archive="cold",policy="cold/old",state="done"} 1.0'
        in project.ok("metrics").out
    )
    assert project.run("archive", "verify", "nonesuch").code == 2
    assert project.run("archive", "verify", "--sample", "0").code == 2


def test_queries_over_an_archive(project, dsn, connection):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in range(3):
            store.append(
                f"cart-{number}", [new("opened", n=number), new("confirmed", n=number, big=2**60)]
            )
    write(project, of(dsn, more=""), 'store = "s"\ncategory = "cart"')
    assert project.run("archive", "query", "SELECT 1").code == 3, "there is no folder yet"
    project.ok("archive", "run", "old", "--remove", "keep")
    verified = project.ok("archive", "verify", "--against-store", "--output", "json").json
    assert (verified["events"], verified["compared"]) == (6, 6)
    project.ok("archive", "run", "old", "--remove", "archive", "--despite-checkpoints")
    # Both may have begun in one second, and the rest of a name is random.
    runs = project.ok("archive", "list", "--output", "json").json
    kept, moved = sorted(runs, key=lambda each: each["removed_events"])
    assert [kept["remove"], kept["removed_events"]] == ["keep", 0]
    assert [moved["remove"], moved["removed_events"]] == ["archive", 6]
    # A verification tells how many events it has compared.
    both = project.ok("archive", "verify", "--against-store", "--output", "json").json
    assert [each["compared"] for each in both["runs"]] == [0, 0], both
    assert project.ok("archive", "verify", "--output", "json").json["compared"] is None
    assert len(project.ok("archive", "list", "--output", "json").json) == 2, (
        "two runs hold each event, and it is there once"
    )
    query = (
        "SELECT stream, (data->>'big')::BIGINT AS big FROM events WHERE type = 'confirmed' "
        "ORDER BY 1"
    )
    rows = project.ok("archive", "query", query, "--output", "json").json
    assert rows == [{"stream": f"cart-{number}", "big": 2**60} for number in range(3)]
    assert (
        project.ok("archive", "query", query, "--output", "csv").out.splitlines()[0] == "stream,big"
    )
    row = project.ok("archive", "query", "SELECT * FROM events LIMIT 1", "--output", "json").json[0]
    assert isinstance(row["data"], dict)
    assert datetime.fromisoformat(row["recorded_at"]).tzinfo is not None
    assert (
        project.ok(
            "archive", "query", "SELECT events FROM streams LIMIT 1", "--output", "ndjson"
        ).out
        == '{"events":2}\n'
    )
    project.ok("archive", "query", query, "--output-file", "found.parquet")
    assert pq.read_table(project.folder / "found.parquet").num_rows == 3
    for wrong in ("SELEC", "SELECT * FROM read_csv('/etc/passwd')", "SELECT nothing FROM events"):
        refused = project.run("archive", "query", wrong)
        assert refused.code == 2
        assert "DuckDB" in refused.err


@pytest.mark.parametrize("runs", thorough_but([1, 2], 1))
def test_a_query_names_what_it_cannot_read(project, dsn, connection, monkeypatch, runs):
    """A lone surrogate is JSON to the store, and none to DuckDB. A large payload is read."""
    eventsourcing.create(connection)
    large = rounds(3_000_000, 120_000_000)
    payloads = [
        b'{"n":1}',
        b'{"n":"\\ud800"}',
        b'{"n":1,"b":"' + b"x" * large + b'"}',
        b"plain text",
        b"\xff",
        b"",
    ]
    for number, state in enumerate(payloads, 1):
        connection.execute(
            "INSERT INTO bankaccounts_events (originator_id, originator_version, topic, state) "
            "VALUES (%s, %s, 'app:Added', %s)",
            (uuid.UUID(int=1), number, state),
        )
    write(project, of(dsn, more=""), 'store = "s"\nstream = "*"')
    name = project.ok("archive", "run", "old", "--remove", "keep", "--output", "json").json["run"]
    for times in range(1, runs + 1):
        ask = ("archive", "query")
        numbers = "SELECT version, data->'n' AS n FROM events ORDER BY 1"
        row = f"version 2 of stream '{uuid.UUID(int=1)}' (run {name})"
        assert project.ok(*ask, "SELECT max(version) AS m FROM events", "--output", "csv").out == (
            "m\n6\n"
        ), "a statement that does not ask for the data does not need it"
        forms = (("--output", "json"), ("-o", "n.parquet"), ("-o", "n.csv"))
        # Where two runs hold each event, how it is written is the same.
        for form in forms if times == 1 else forms[:1]:
            refused = project.run(*ask, numbers, *form)
            assert refused.code == 1
            assert f"the data of {row} cannot be read as JSON" in refused.err
            assert "--skip-unreadable" in refused.err
            assert not [each.name for each in project.folder.glob("*n.*")]
        skipped = project.run(*ask, numbers, "--skip-unreadable", "--output", "json")
        assert skipped.code == 1
        told = "1 event is left out, since DuckDB cannot read the data or metadata as JSON"
        assert f"{told}: {row}" in skipped.err
        assert skipped.json == [
            {"version": number, "n": 1 if number in (1, 3) else None} for number in (1, 3, 4, 5, 6)
        ]
        if times == 1:
            for file in ("n.parquet", "n.csv"):
                assert project.run(*ask, numbers, "--skip-unreadable", "-o", file).code == 1
            assert pq.read_table(project.folder / "n.parquet").num_rows == 5
            assert len((project.folder / "n.csv").read_text().splitlines()) == 6
        size = "SELECT length(data->>'b') AS n FROM events WHERE version = 3"
        assert project.ok(*ask, size, "--output", "json").json == [{"n": large}]
        if times < runs:
            # Two runs hold each event.
            project.ok("archive", "run", "old", "--remove", "keep")
            listed = project.ok("archive", "list", "--output", "json").json
            name = max(each["run"] for each in listed)
            for file in ("n.parquet", "n.csv"):
                (project.folder / file).unlink()
    # Where the machine has too little memory for the large one, this is not read, either.
    monkeypatch.setattr(views, "_PER_BYTE", 10**6)
    catalog = Catalog(Repository(ArchiveSettings(repository=str(project.folder / "cold"))))
    with answered(catalog, numbers, skip_unreadable=True) as answer:
        assert [row[0] for row in answer.rows] == [1, 4, 5, 6]
        assert [each.version for each in answer.left_out.first] == [2, 3]
    with pytest.raises(Damaged, match="version 3 of stream"), answered(catalog, size):
        pass


@pytest.mark.thorough
def test_a_store_may_have_any_name(project, dsn, connection):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [new("opened"), new("confirmed")])
    name = "o'brien \\ {x} %s"
    quoted = json.dumps(name)
    write(project, of(dsn, quoted, ""), f'store = {quoted}\ncategory = "cart"')
    run = project.ok("archive", "run", "old", "--remove", "archive", "--output", "json").json["run"]
    query = "SELECT count(*) AS n FROM events"
    assert project.ok("archive", "query", query, "--output", "json").json == [{"n": 2}]
    project.ok("archive", "verify", run, "--against-store")
    project.ok("archive", "restore", run, "--yes")


class AheadBy(datetime):
    """A machine whose clock is wrong."""

    by = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.by


def test_ages_are_by_the_stores_clock(project, dsn, connection, monkeypatch, capsys):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [new("opened"), new("confirmed")])
    write(project, of(dsn, more=""), 'store = "s"\ncategory = "cart"\nidle_for = "1h"')
    config = load_config(project.folder / "esops.toml")
    monkeypatch.setattr(policy, "datetime", AheadBy)
    for by in (timedelta(days=200), timedelta(days=-200)):
        monkeypatch.setattr(AheadBy, "by", by)
        for job in (plan, run):
            with pytest.raises(Refused, match="one of them is wrong, and so are"):
                job(config, "old")
    monkeypatch.setattr(AheadBy, "by", timedelta(minutes=59))
    assert run(config, "old").state == "nothing"
    assert "ages are by the store's" in "".join(capsys.readouterr())
    connection.execute("UPDATE emt_messages SET created = created - interval '1 hour'")
    assert run(config, "old").streams == 1


def test_what_is_younger_than_the_floor_is_never_removed(project, dsn, connection):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for number in (1, 2, 3):
            store.append(f"cart-{number}", [new(), new()])
        connection.execute("UPDATE emt_messages SET created = created - interval '25 hours'")
        connection.execute("UPDATE emt_messages SET created = now() WHERE stream_id = 'cart-2'")
        store.append("cart-3", [new(), new()])

    def configured(more: str = "", floor: str = ""):
        text = f'store = "s"\ncategory = "cart"\nremove = "delete"\n{more}'
        write(project, of(dsn, more=""), text)
        path = project.folder / "esops.toml"
        path.write_text(path.read_text().replace("never_younger_than = '0s'\n", floor))
        return load_config(path)

    # The default is a day: of a stream by its last event, of a head by that of the head.
    found = plan(configured(), "old")
    assert (found.streams, found.events, found.too_young) == (1, 2, 2)
    assert "2 streams are left out, younger than" in project.ok("archive", "plan", "old").out
    found = plan(configured('until = "added"'), "old")
    assert (found.streams, found.events, found.too_young) == (2, 3, 1)
    found = plan(configured('until = "added"\nolder_than = "400d"'), "old")
    assert (found.streams, found.too_young) == (0, 0), "the floor is not what holds it"
    assert plan(configured(), "old", removal="keep").streams == 3

    # A run that was sealed for another floor, or to keep its streams, is resumed.
    def stop(what: str, done: int, total: int | None) -> None:
        if what == "streams removed":
            raise Stopped("in the middle")

    with pytest.raises(Stopped):
        run(
            configured(floor="never_younger_than = '0s'\n"),
            "old",
            RunRequest(despite_checkpoints=True),
            progress=stop,
        )
    outcome = run(configured(), "old", RunRequest(despite_checkpoints=True))
    assert (outcome.removed, outcome.left_alone) == (1, 2)
    assert {each["stream"] for each in outcome.skipped} == {"cart-2", "cart-3"}
    assert "younger than 24 h" in outcome.skipped[0]["reason"]
    # A store without times needs it to be said.
    connection.execute("UPDATE emt_messages SET created = '-infinity'")
    assert plan(configured(), "old").age_unknown == 2


def test_what_projections_have_not_passed_is_not_removed(project, dsn, connection):
    shop.make(dsn, 100)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    archive = (
        "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\nstore = "
        "'shop'\ncategory = 'cart'\nnever_younger_than = '0s'\nremove = 'delete'\n"
    )
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", f"{text}\n{archive}")
    with open_store("s", PostgresSettings(dsn=dsn, schema="shop", append="quick")) as store:
        store.append(
            "cart-99999999",
            [NewEvent(str(uuid.uuid4()), "shopping_cart_opened", b'{"ClientId": "c"}')],
        )
    connection.execute("INSERT INTO shop.mt_event_progression VALUES ('Totals:All', 7)")
    refused = project.run("archive", "run", "old")
    assert refused.code == 6
    assert "'Totals:All' (it is at 7;" in refused.err
    assert "projection cart_summary v1 (it is at 100;" in refused.err
    assert connection.execute("SELECT count(*) FROM shop.mt_events").fetchone() == (101,)
    connection.execute("DELETE FROM shop.mt_event_progression")
    assert project.run("archive", "run", "old").code == 6
    project.ok("run", "--until-caught-up")
    done = project.ok("archive", "run", "old", "--output", "json").json
    assert done["removed"] == 11
    assert len(project.ok("archive", "list", "--output", "json").json) == 1, (
        "it went on with the sealed run"
    )


# A rebuild reads what an archive has, whichever way it came there.
@pytest.mark.parametrize("how", thorough_but(["delete", "archive"], "delete"))
def test_a_rebuild_says_what_it_cannot_see_and_sees_it_with_the_archive(
    project, dsn, connection, how
):
    shop.make(dsn, 300)
    marten.create_archive_function(connection, marten.Variant(schema="shop", text_ids=True))
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    before = connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall()
    archive = (
        "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\nstore = "
        "'shop'\nstream = 'cart-0000000*'\n"
        f"remove = '{how}'\nnever_younger_than = '0s'\n"
    )
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", f"{text}\n{archive}")
    assert project.ok("archive", "run", "old", "--output", "json").json["removed"] == 9
    ways = (["--blue-green"], ["--yes"], ["--ranges", "4", "--yes"])
    for way in (*ways, ["--blue-green", "--dry-run"]):
        refused = project.run("rebuild", *way)
        assert refused.code == 6, way
        assert "90 events of 9 streams were archived and removed" in refused.err
        assert 'archive = "cold" in [stores.shop]' in refused.err
    assert connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall() == before
    in_place = project.ok(
        "rebuild", "cart_summary", "--without-archived", "--dry-run", "--output", "json"
    ).json
    assert any("90 events of 9 streams" in note for note in in_place["notes"])
    differs = project.run("rebuild", "--blue-green", "--without-archived", "--output", "json")
    assert differs.code == 1
    assert differs.json["verification"]["only_blue"] == 9
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    project.write(
        "esops.toml",
        f"{text}\n{archive}".replace('schema = "shop"', 'schema = "shop"\narchive = "cold"'),
    )
    assert "archived" not in project.ok("rebuild", "--blue-green", "--dry-run").out
    rebuilt = project.ok("rebuild", "--blue-green", "--output", "json").json
    assert (rebuilt["events"], rebuilt["verification"]["differing"]) == (300, 0)
    assert connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall() == before
    events = [json.loads(line) for line in project.ok("events").out.splitlines()]
    assert [int(event["position"]) for event in events] == list(range(1, 301))
    assert project.ok("archive", "plan", "old", "--output", "json").json["streams"] == 0, (
        "the archive is not archived again"
    )
    assert project.ok("archive", "run", "old", "--output", "json").json["state"] == "nothing"


def test_out_of_time_and_gone_on_with(project, dsn, connection, monkeypatch):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(60):
            store.append(f"cart-{number}", [new(n=n) for n in range(10)])
    policy = 'store = "s"\ncategory = "cart"\nremove = "delete"\n'
    write(project, of(dsn), policy)
    at_once = project.run("archive", "run", "old", "--max-duration", "1ms")
    assert (at_once.code, "time limit of" in at_once.err) == (5, True), at_once.err
    # The time is over when some streams have left.
    clock = [0.0]
    monkeypatch.setattr("esops.archive.run.time", SimpleNamespace(monotonic=lambda: clock[0]))

    def late(what: str, done: int, total: int | None) -> None:
        clock[0] += 10 if what == "streams removed" else 0

    write(project, of(dsn), f"{policy}batch = 50")
    limited = RunRequest(max_duration=timedelta(seconds=3))
    with pytest.raises(Stopped, match=r"time limit of 3\.0 s") as stopped:
        run(load_config(project.folder / "esops.toml"), "old", limited, progress=late)
    monkeypatch.undo()
    assert stopped.value.exit_code == 5
    left = connection.execute("SELECT count(*) FROM mt_events").fetchone()[0]
    assert 0 < left < 600
    write(project, of(dsn), policy)
    assert project.ok("archive", "run", "old", "--output", "json").json["removed"] == 60
    assert connection.execute(
        "SELECT count(*), bool_and(is_archived), max(version) FROM mt_streams"
    ).fetchone() == (
        60,
        True,
        10,
    )
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (0,)


def test_restored_into_another_database_of_the_same_layout(project, server, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, optional=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(
            "cart-1",
            [NewEvent(str(uuid.uuid4()), "a", b'{"n": 1.50}', b'{"correlationId": "c"}'), new("b")],
        )
    connection.execute("CREATE DATABASE elsewhere")
    other = server.dsn("elsewhere")
    try:
        with psycopg.connect(other, autocommit=True) as there:
            marten.create(there, marten.Variant(text_ids=True, optional=True))
        write(project, of(dsn) + of(other, "copy"), 'store = "s"\ncategory = "cart"')
        name = project.ok("archive", "run", "old", "--output", "json").json["run"]
        project.ok("archive", "restore", name, "--into", "copy", "--yes")
        with psycopg.connect(other) as there:
            for table in ("mt_events", "mt_streams"):
                query = f"SELECT t::text FROM {table} t ORDER BY 1"
                assert there.execute(query).fetchall() == connection.execute(query).fetchall()
    finally:
        connection.execute("DROP DATABASE elsewhere WITH (FORCE)")


def test_restored_into_a_store_of_another_kind(project, dsn, connection, node):
    """Ids, versions, types, payloads and metadata; positions and times are the other store's."""
    marten.create(connection, marten.Variant(text_ids=True, optional=True))
    stream = f"cart-{uuid.uuid4()}"
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append(
            stream,
            [
                NewEvent(str(uuid.uuid4()), "a", b'{"n": 1}', b'{"correlationId": "c"}'),
                *(new("b") for _ in range(450)),
            ],
        )
        before = list(store.read_stream(stream))
    nodes = f"[stores.node]\nbackend = 'eventstoredb'\nuri = '{node.uri}'\n"
    write(project, of(dsn) + nodes, 'store = "s"\ncategory = "cart"')
    name = project.ok("archive", "run", "old", "--output", "json").json["run"]
    told = project.ok(
        "archive", "restore", name, "--into", "node", "--yes", "--output", "json"
    ).json
    assert told["events"] == 451
    assert (
        project.ok("archive", "restore", name, "--into", "node", "--yes", "--output", "json").json[
            "there"
        ]
        == 1
    )
    with open_store("n", EventStoreDBSettings(uri=node.uri)) as store:
        after = list(store.read_stream(stream))
        assert [(e.id, e.version + 1, e.type, e.json(), e.correlation_id) for e in after] == [
            (e.id, e.version, e.type, e.json(), e.correlation_id) for e in before
        ]
        store.append(stream, [new("more")])
    assert project.run("archive", "restore", name, "--into", "node", "--yes").code == 6


def test_a_scavenge_after_a_removal_and_no_way_back(project):
    with Nodes() as nodes:
        settings = EventStoreDBSettings(uri=nodes.uri)
        with open_store("s", settings) as store:
            store.append("cart-1", [new(n=n) for n in range(5)])
            store.append("cart-2", [new(n=n) for n in range(5)])
            write(
                project,
                f"[stores.s]\nbackend = 'eventstoredb'\nuri = '{nodes.uri}'\n",
                "store = 's'\ncategory = 'cart'\nremove = 'truncate'\nscavenge = true",
            )
            # What others did on that node goes with it: truncated, deleted, tombstoned.
            for number, events in enumerate((4, 3, 2)):
                store.append(f"other-{number}", [new() for _ in range(events)])
            store.changes.truncate("other-0", 3)
            store.changes.delete("other-1", 2)
            store.changes.tombstone("other-2", 1)
            planned = project.ok("archive", "plan", "old", "--output", "json").json["scavenge"]
            assert (planned["streams"], planned["events"], planned["complete"]) == (3, 7, True)
            assert planned["bytes"] == 7 * len(b"{}" + b"{}")
            text = project.ok("archive", "plan", "old").out
            assert "POST /admin/scavenge" in text
            assert "cannot be undone" in text
            kept = project.ok("archive", "plan", "old", "--remove", "keep", "--output", "json")
            assert kept.json["scavenge"] is None
            log = sum(len(batch.events) for batch in store.read_all())
            # What others truncated is in $all, as long as nobody scavenges.
            told = project.ok(
                "archive", "run", "old", "--despite-checkpoints", "--output", "json"
            ).json
            assert told["scavenge"]
            # Of the one that was deleted the node keeps the last event, which nobody can read.
            assert log - sum(len(batch.events) for batch in store.read_all()) == 8 + 8
            assert [event.version for event in store.read_stream("cart-1")] == [4]
            assert (
                len(
                    [
                        event
                        for batch in store.read_all()
                        for event in batch.events
                        if event.stream == "cart-1"
                    ]
                )
                == 1
            )
            # Now it looks like what an archive elsewhere has.
            (project.folder / "cold").rename(project.folder / "away")
            assert project.run("archive", "run", "old", "--despite-checkpoints").code == 6
            (project.folder / "away").rename(project.folder / "cold")
            refused = project.run("archive", "restore", told["run"], "--yes")
            assert refused.code == 6
            assert "scavenge" in refused.err
            assert "--into" in refused.err
            assert [event.version for event in store.read_stream("cart-1")] == [4]


def test_a_stream_that_begins_late_does_not_keep_others_from_coming_back(project, dsn, connection):
    """Into another node, and into another kind of store: both would count it from the beginning."""
    marten.create(connection, marten.Variant(text_ids=True))
    with Nodes() as nodes, Nodes() as others:
        with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
            for number in range(4):
                store.append(f"cart-{number}", [new(), new()])
            store.changes.truncate("cart-1", 1)
        node = "[stores.{}]\nbackend = 'eventstoredb'\nuri = '{}'\n"
        stores = node.format("s", nodes.uri) + node.format("copy", others.uri) + of(dsn, "marten")
        write(project, stores, "store = 's'\ncategory = 'cart'")
        name = project.ok("archive", "run", "old", "--new-archive", "--output", "json").json["run"]
        for store in ("copy", "marten"):
            into = ("archive", "restore", name, "--into", store, "--yes", "--output", "json")
            refused = project.run(*into)
            assert (refused.code, "cart-1" in refused.err) == (6, True), refused.err
            assert "--skip-conflicts" in refused.err
            # All of it, or nothing that was not asked for.
            there = project.ok("audit", "streams", "--store", store, "--output", "json").json
            assert there["summary"]["streams"] == 0
            told = project.run(*into, "--skip-conflicts")
            assert (told.code, told.json["streams"], told.json["events"]) == (1, 3, 6)
            assert [each["stream"] for each in told.json["skipped"]] == ["cart-1"]


def test_a_stream_of_somebody_else_is_not_continued_by_a_restore(project, dsn, connection):
    """In another kind of store, what is there already of a stream may be of a restore that was
    killed.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        streams = {name: [new(n=n) for n in range(3)] for name in ("cart-1", "cart-2")}
        for name, events in streams.items():
            store.append(name, events)
        theirs = new(n=0)
        with open_store("marten", PostgresSettings(dsn=dsn, append="quick")) as copy:
            copy.append("cart-1", [theirs])
            copy.append("cart-2", streams["cart-2"][:2])
            stores = f"[stores.s]\nbackend = 'eventstoredb'\nuri = '{nodes.uri}'\n"
            write(project, stores + of(dsn, "marten"), "store = 's'\ncategory = 'cart'")
            archived = project.ok("archive", "run", "old", "--new-archive", "--output", "json")
            into = ("archive", "restore", archived.json["run"], "--into", "marten", "--yes")
            refused = project.run(*into)
            assert (refused.code, "cart-1" in refused.err) == (6, True), refused.err
            assert project.run(*into, "--skip-conflicts").code == 1
            assert [event.id for event in copy.read_stream("cart-1")] == [theirs.id]
            found = [event.id for event in copy.read_stream("cart-2")]
            assert found == [event.id for event in streams["cart-2"]]


def test_what_fails_in_its_last_part_is_not_counted(project):
    """A node removes a stream at once, whatever `batch` says."""
    with Nodes() as nodes, open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        store.append("cart-1", [new(n=n) for n in range(50)])
        stores = f"[stores.s]\nbackend = 'eventstoredb'\nuri = '{nodes.uri}'\n"
        write(project, stores, "store = 's'\ncategory = 'cart'\nremove = 'truncate'\nbatch = 10")
        config = load_config(project.folder / "esops.toml")

        def late(what: str, done: int, total: int | None) -> None:
            if what == "streams removed" and store.stream_info("cart-1").last_version == 49:
                store.append("cart-1", [new()])

        outcome = run(config, "old", RunRequest(despite_checkpoints=True), progress=late)
        assert (outcome.removed, outcome.removed_events, outcome.left_alone) == (0, 0, 1)
        assert len(list(store.read_stream("cart-1"))) == 51


def test_of_a_stream_whose_part_has_stayed_nothing_behind_it_is_removed():
    asked = []

    class Store:
        """Refuses the second part."""

        archiving = property(lambda self: self)

        def obstacles(self, removal, parts):
            return {}

        def remove(self, removal, parts, lock_timeout, statement_timeout):
            asked.extend(part.low for part in parts)
            return [
                Removed(part, 0, "locked") if part.low == 11 else Removed(part, 10, None)
                for part in parts
            ]

    digest = Digest("cart-1", "", 40, 1, 40, None, None, 0, b"")
    result = RemovalResult()
    settings = PolicySettings(category="cart", batch=10)
    strategy = RemovalStrategy("delete")
    events = pa.RecordBatch.from_pydict({"version": range(1, 41)})
    stream = ArchivedStream(digest, [events])
    Remover(Store(), strategy, settings, False, lambda: None).remove([stream], result)
    assert asked == [1, 11]
    assert (result.streams, result.events, result.left_alone) == (0, 10, 1)


@pytest.mark.thorough
def test_tombstoned_streams_are_gone_for_good_and_come_back_elsewhere_alone(project):
    with Nodes() as nodes, Nodes() as others:
        with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
            store.append("cart-1", [new(n=n) for n in range(5)])
            store.append("cart-2", [new(n=n) for n in range(3)])
            before = {name: list(store.read_stream(name)) for name in ("cart-1", "cart-2")}
            stores = (
                "[stores.s]\nbackend = 'eventstoredb'\nuri = "
                f"'{nodes.uri}'\n[stores.copy]\nbackend = 'eventstoredb'\nuri = '{others.uri}'\n"
            )
            write(project, stores, "store = 's'\ncategory = 'cart'\nremove = 'tombstone'")
            plan = project.ok("archive", "plan", "old").out
            assert "their names can never be used again" in plan
            told = project.ok(
                "archive", "run", "old", "--despite-checkpoints", "--output", "json"
            ).json
            assert (told["state"], told["removed"]) == ("done", 2)
            for name in before:
                assert list(store.read_stream(name)) == []
                assert store.stream_info(name).deleted == "tombstone"
                with pytest.raises(StreamGone):
                    store.append(name, [new()])
            assert project.ok("archive", "verify", told["run"], "--output", "json").json["ok"]
            refused = project.run("archive", "restore", told["run"], "--yes")
            assert refused.code == 6
            assert "tombstoned" in refused.err
        project.ok("archive", "restore", told["run"], "--into", "copy", "--yes")
        with open_store("copy", EventStoreDBSettings(uri=others.uri)) as store:
            for name, events in before.items():
                after = list(store.read_stream(name))
                assert [(e.id, e.version, e.type, e.data, e.metadata) for e in after] == [
                    (e.id, e.version, e.type, e.data, e.metadata) for e in events
                ]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["emmett-0.42.0", "message-db-1.3.1", "eventsourcing-9.5.6"])
def test_databases_of_the_real_libraries_go_and_come_back(project, dumps, dsn, connection, name):
    emmett.restore(connection, (dumps / f"{name}.sql").read_text())
    truth = json.loads((dumps / f"{name}.json").read_text())
    more = 'ordering = "position"' if name.startswith("emmett") else ""
    write(project, of(dsn, more=more), 'store = "s"\nstream = "*"\nremove = "delete"')
    config = load_config(project.folder / "esops.toml")
    with open_store("s", config.stores["s"]) as store:
        tables = [each.as_string(connection) for each in store.layout.reads]
        was = {
            table: connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
            for table in tables
        }
        before = [event for batch in store.read_all() for event in batch.events]
        assert before
        assert truth
        done = run(config, "old", RunRequest(despite_checkpoints=True))
        assert done.removed_events > 0
        assert len([event for batch in store.read_all() for event in batch.events]) < len(before)
        with open_store(
            "s", config.stores["s"].model_copy(update={"cold": config.archives["cold"]})
        ) as joined:
            assert [event for batch in joined.read_all() for event in batch.events] == before
        for found in Catalog(Repository(config.archives["cold"])).sealed():
            restore(*found, store)
        assert {
            table: connection.execute(f"SELECT t::text FROM {table} t ORDER BY 1").fetchall()
            for table in tables
        } == was


def test_a_role_with_the_printed_grants_archives_and_restores(project, dsn, connection):
    emmett.create(connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [new(), new()])
    write(project, of(dsn, more=""), 'store = "s"\ncategory = "cart"\nremove = "archive"')
    connection.execute("CREATE ROLE archivist LOGIN")
    try:
        grants = project.ok("doctor", "--grants", "archivist").out
        connection.execute(grants)
        write(
            project,
            of(f"{dsn} user=archivist", more=""),
            'store = "s"\ncategory = "cart"\nremove = "archive"',
        )
        done = project.ok("archive", "run", "old", "--despite-checkpoints", "--output", "json").json
        assert done["removed"] == 1
        project.ok("archive", "restore", done["run"], "--yes")
        connection.execute("REVOKE UPDATE ON emt_messages FROM archivist")
        missing = project.run("archive", "run", "old", "--despite-checkpoints")
        assert missing.code == 3
        assert "emt_messages" in missing.err
    finally:
        connection.execute("DROP OWNED BY archivist; DROP ROLE archivist")


def test_an_archive_of_several_stores_asks_which(project, server, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute("CREATE SCHEMA emmetts; SET search_path = emmetts")
    emmett.create(connection)
    stores = of(dsn, "m", 'layout = "marten"') + of(dsn, "e", 'layout = "emmett"')
    for name, layout in (("m", "marten"), ("e", "emmett")):
        with open_store(name, PostgresSettings(dsn=dsn, layout=layout)) as store:
            store.append("cart-1", [new(of=name)])
    more = (
        "[archives.cold.policies.other]\nstore = 'e'\ncategory = "
        "'cart'\n[stores.only]\nbackend "
        "= 'archive'\narchive = 'cold'\nof = 'e'\n"
    )
    write(project, stores, "store = 'm'\ncategory = 'cart'", more)
    project.ok("archive", "run", "old")
    project.ok("archive", "run", "other")
    asked = project.run("events", "--store", "cold")
    assert asked.code == 2
    assert "several stores: e, m" in asked.err
    (line,) = project.ok("events", "--store", "only").out.splitlines()
    assert json.loads(line)["data"] == {"of": "e"}


@pytest.mark.thorough
def test_a_read_model_is_built_from_an_archive_alone(project, dsn, connection):
    """Rows and order as from the store that the events came from."""
    shop.make(dsn, 2_000)
    shop.configure(project, dsn)
    text = (project.folder / "esops.toml").read_text()
    archive = (
        "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\nstore = "
        "'shop'\ncategory = 'cart'\nnever_younger_than = '0s'\n"
    )
    more = (
        "[stores.cold]\nbackend = 'archive'\narchive = 'cold'\n[readmodels.main]\ndsn = "
        f"{json.dumps(dsn)}\n"
    )
    project.write(
        "esops.toml",
        text.replace("[projections.cart_summary]", "[projections.cart_summary]\nstore = 'shop'")
        + archive
        + more,
    )
    project.ok("archive", "run", "old")
    project.ok("rebuild", "--blue-green")
    hot = connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall()
    connection.execute(
        "DROP VIEW cart_summary; DROP TABLE cart_summary__v1; DROP SCHEMA esops CASCADE"
    )
    built = project.ok("rebuild", "--blue-green", "--store", "cold", "--output", "json").json
    assert built["events"] == 2_000
    assert connection.execute("SELECT * FROM cart_summary ORDER BY 1").fetchall() == hot
    assert len(hot) == 200


def test_the_last_events_stay_where_that_is_asked_for(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("cart-1", [new(n=n) for n in range(7)])
        write(
            project,
            of(dsn),
            'store = "s"\nstream = "*"\nremove = "delete"\nuntil = "added"\nkeep_last = 2\nbatch = 3',
        )
        told = project.ok("archive", "run", "old", "--output", "json").json
        assert (told["removed"], told["removed_events"]) == (1, 5)
        assert [event.version for event in store.read_stream("cart-1")] == [6, 7]
        assert project.ok("archive", "run", "old", "--output", "json").json["state"] == "nothing"
        store.append("cart-1", [new(n=8)])
        assert [event.version for event in store.read_stream("cart-1")] == [6, 7, 8]
        project.ok("archive", "restore", told["run"], "--yes")
        assert [event.version for event in store.read_stream("cart-1")] == list(range(1, 9))
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "archive"\nkeep_last = 2')
    assert project.run("archive", "plan", "old").code == 2


def test_an_event_that_was_changed_after_the_verification_is_not_removed(project, dsn, connection):
    """Such as by a masking of personal data: the archive has the event as it was, and the store's
    is another.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(name="Ann"), new(name="Ann")])
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "delete"')
    masked = []

    def progress(what: str, done: int, total: int | None) -> None:
        if what == "streams removed" and not masked:
            connection.execute(
                "UPDATE mt_events SET data = '{}' WHERE stream_id = 'cart-1' AND version = 2"
            )
            masked.append(True)

    outcome = run(load_config(project.folder / "esops.toml"), "old", progress=progress)
    assert outcome.removed == 2
    assert outcome.skipped == [
        {"stream": "cart-1", "reason": "version 2 differs from the store's in data"}
    ]
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (2,)


def test_binary_payloads_leave_and_come_back_as_they_were(project, dsn, connection):
    """Marten keeps a placeholder in `data` beside them."""
    marten.create(connection, marten.Variant(text_ids=True, binary=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(3):
            store.append(f"cart-{number}", [new(n=1), new(n=2), new(n=3)])
        connection.execute(
            "UPDATE mt_events SET bdata = %s, data = '{}' WHERE version = 2", (b"\x00\xffpack",)
        )
        connection.execute(
            "UPDATE mt_events SET bdata = '', data = '{}' WHERE version = 3 AND stream_id = "
            "'cart-1'"
        )
        before = connection.execute("SELECT e::text FROM mt_events e ORDER BY seq_id").fetchall()
        read = [event.data for batch in store.read_all() for event in batch.events]
        write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "delete"')
        told = project.ok("archive", "run", "old", "--output", "json").json
        assert told["removed_events"] == 9
        assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (0,)
        with open_store("cold", load_config(project.folder / "esops.toml").stores["cold"]) as cold:
            assert [event.data for batch in cold.read_all() for event in batch.events] == read
        project.ok("archive", "restore", told["run"], "--yes")
        assert (
            connection.execute("SELECT e::text FROM mt_events e ORDER BY seq_id").fetchall()
            == before
        )


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(["cart-1"], id="some older events"),
        pytest.param([], id="nothing", marks=pytest.mark.thorough),
    ],
)
def test_the_newest_events_are_read_from_the_archive(kept, project, dsn, connection):
    """The store itself ends before them, or is empty."""
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for name in [*kept, "order-1", "order-2"]:
            store.append(name, [new("a"), new("b")])
    policy = 'store = "s"\ncategory = "order"\nremove = "delete"'
    write(project, of(dsn, more='append = "quick"\narchive = "cold"'), policy)
    assert project.ok("archive", "run", "old", "--output", "json").json["removed"] == 2
    printed = project.ok("events", "--store", "s").out
    read = [json.loads(line) for line in printed.splitlines()]
    streams = [each["stream"] for each in read]
    assert streams == [name for name in [*kept, "order-1", "order-2"] for _ in range(2)]
    (shown,) = project.ok("status", "--store", "s", "--output", "json").json["stores"]
    assert shown["ok"]


def test_of_a_large_archive_only_those_files_are_read_that_may_hold_what_is_asked_for(
    project, dsn, connection, monkeypatch
):
    """Files that are lost tell which ones are."""
    monkeypatch.setattr(writer, "_GROUP_BYTES", 1 << 20)
    marten.create(connection, marten.Variant(text_ids=True))
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "delete"')
    config = (
        (project.folder / "esops.toml")
        .read_text()
        .replace("repository = 'cold'", "repository = 'cold'\nfile_size = 65536")
    )
    (project.folder / "esops.toml").write_text(config)
    noise = [os.urandom(25_000).hex() for _ in range(20)]
    runs = []
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for first in (0, 6):
            for number in range(first, first + 6):
                store.append(f"cart-{number:02}", [new(n=n, noise=noise[n]) for n in range(20)])
            runs.append(project.ok("archive", "run", "old", "--output", "json").json)
    assert all(run_["files"] > 2 for run_ in runs), runs

    def read(*more: str):
        return project.run("events", "--store", "cold", "--output", "ndjson", *more)

    def versions(result) -> list[int]:
        assert result.code == 0, result.err
        return [orjson.loads(line)["version"] for line in result.out.splitlines()]

    assert versions(read("--stream", "cart-06")) == list(range(1, 21))
    first, second = (
        sorted((project.folder / "cold" / "runs" / each["run"]).glob("*-events-*.parquet"))
        for each in runs
    )
    first[0].unlink()
    assert read("--after", "119").code == 1
    assert versions(read("--after", "120")) == [*range(1, 21)] * 6
    second[-1].unlink()
    asked = (0, 4, 7, 11)
    lost = {number for number in asked if read("--stream", f"cart-{number:02}").code}
    assert lost == {0, 11}, lost
    assert first[0].name in read("--stream", "cart-00").err
    whole = min({*asked} - lost)
    project.ok("archive", "restore", runs[0]["run"], f"cart-{whole:02}", "--yes")
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (20,)
    assert project.run("archive", "restore", runs[0]["run"], "cart-00", "--yes").code == 1


def test_joined_streams_of_tenants_with_one_name_are_two(project, dsn, connection):
    """Of one tenant's stream a part went, of the other's all, and a third is whole."""
    marten.create(connection, marten.VARIANTS["marten-conjoined"])
    settings = PostgresSettings(dsn=dsn, append="quick")
    for tenant, count in (("red", 4), ("blue", 3), ("green", 2)):
        with open_store("s", settings.model_copy(update={"tenant": tenant})) as store:
            store.append("cart-1", [new(tenant, n=n) for n in range(count)])
            store.append(f"{tenant}-1", [new(tenant)])
    with open_store("s", settings) as store:
        before = list(store.streams())
        events = [event for batch in store.read_all() for event in batch.events]
        versions = [(event.tenant, event.version) for event in store.read_stream("cart-1")]
    for tenant, head in (("red", 'until = "red"'), ("blue", "")):
        policy = f'store = "s"\nstream = "*"\ntenant = "{tenant}"\nremove = "delete"\n{head}'
        write(project, of(dsn), policy)
        project.ok("archive", "run", "old")
    write(project, of(dsn, more='append = "quick"\narchive = "cold"'), policy)
    with open_store("s", settings) as store:
        assert {
            (info.tenant, info.length) for info in store.streams() if info.name == "cart-1"
        } == {("red", 1), ("green", 2)}
    config = load_config(project.folder / "esops.toml")
    with open_store("s", config.stores["s"]) as store:
        joined = list(store.streams())
        assert {
            info.key: (info.length, info.first_version, info.first_at, info.last_at)
            for info in joined
        } == {
            info.key: (info.length, info.first_version, info.first_at, info.last_at)
            for info in before
        }
        assert len(joined) == len(before)
        assert {info.tenant for info in joined if info.archived} == {"blue"}
        assert [len(list(store.streams(limit=limit))) for limit in range(8)] == [
            0,
            1,
            2,
            3,
            4,
            5,
            6,
            6,
        ]
        assert [event for batch in store.read_all() for event in batch.events] == events
        read = [(event.tenant, event.version) for event in store.read_stream("cart-1")]
        assert (sorted(read), [version for _, version in read]) == (
            sorted(versions),
            [version for _, version in versions],
        )
        assert [(e.tenant, e.version) for e in store.read_stream("cart-1", backwards=True)][:2] == [
            ("red", 4),
            ("red", 3),
        ]


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        (
            "s3://b/p",
            {
                "AWS_ENDPOINT": "{}",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
                "AWS_ALLOW_HTTP": "true",
            },
        ),
        (
            "az://b/p",
            {
                "AZURE_STORAGE_ENDPOINT": "{}",
                "AZURE_STORAGE_ACCOUNT_NAME": "a",
                "AZURE_STORAGE_ACCOUNT_KEY": "YQ==",
                "AZURE_ALLOW_HTTP": "true",
            },
        ),
    ],
)
def test_each_clouds_own_environment_says_where_and_how(monkeypatch, address, environment):
    asked = []

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for key, value in environment.items():
            monkeypatch.setenv(key, value.format(f"http://127.0.0.1:{server.server_port}"))
        assert not Repository(ArchiveSettings(repository=address)).has("runs/x")
        server.shutdown()
    assert [path.endswith("p/runs/x") for path in asked] == [True]


@pytest.mark.thorough
def test_events_that_others_refer_to_stay_and_the_rest_of_the_run_goes(project, dsn, connection):
    """As Marten's tables of tags do, without a cascade (EventTagTable)."""
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(9):
            store.append(f"cart-{number}", [new(), new()])
    connection.execute(
        "CREATE TABLE mt_event_tag_region (value text, seq_id bigint REFERENCES mt_events "
        "(seq_id), PRIMARY KEY (value, seq_id))"
    )
    tagged = "SELECT seq_id FROM mt_events WHERE version = 2 AND stream_id IN ('cart-3', 'cart-4')"
    connection.execute(
        f"INSERT INTO mt_event_tag_region SELECT 'north', seq_id FROM ({tagged}) AS t"
    )
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "delete"')
    ran = project.run("archive", "run", "old", "--output", "json")
    told = ran.json
    assert (ran.code, told["removed"], told["removed_events"]) == (1, 7, 14)
    assert [each["stream"] for each in told["skipped"]] == ["cart-3", "cart-4"]
    assert all("mt_event_tag_region" in each["reason"] for each in told["skipped"])
    assert connection.execute(
        "SELECT stream_id, version FROM mt_events ORDER BY 1, 2"
    ).fetchall() == [(f"cart-{number}", version) for number in (3, 4) for version in (1, 2)]
    assert connection.execute("SELECT count(*) FROM mt_event_tag_region").fetchone() == (2,)
    connection.execute(
        "CREATE TABLE notes (seq_id bigint REFERENCES mt_events (seq_id) ON DELETE CASCADE)"
    )
    connection.execute("INSERT INTO notes SELECT seq_id FROM mt_events")
    for command in (("archive", "plan", "old"), ("archive", "run", "old")):
        refused = project.run(*command)
        assert refused.code == 6
        assert "delete or change rows of public.notes" in refused.err
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (4,)
    connection.execute(
        "ALTER TABLE notes DROP CONSTRAINT notes_seq_id_fkey; "
        "CREATE FUNCTION drop_notes() RETURNS trigger LANGUAGE plpgsql AS "
        "$f$ BEGIN DELETE FROM notes; RETURN OLD; END $f$"
    )
    # A stream's row is updated, and stays; in place, the events' as well.
    for when, how in (
        ("AFTER DELETE ON mt_events", "delete"),
        ("AFTER UPDATE ON mt_streams", "delete"),
        ("AFTER UPDATE ON mt_streams", "archive"),
        ("BEFORE UPDATE OR DELETE ON mt_events", "archive"),
    ):
        table = when.split()[-1]
        write(project, of(dsn), f'store = "s"\nstream = "*"\nremove = "{how}"')
        connection.execute(
            f"CREATE TRIGGER drops {when} FOR EACH ROW EXECUTE FUNCTION drop_notes()"
        )
        for command in (("archive", "plan", "old"), ("archive", "run", "old")):
            refused = project.run(*command)
            assert refused.code == 6
            assert f'"{table}" would run triggers of the application (drops)' in refused.err
        connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER drops")
        project.ok("archive", "plan", "old")
        connection.execute(f"DROP TRIGGER drops ON {table}")
    connection.execute("CREATE RULE drops AS ON UPDATE TO mt_streams DO ALSO DELETE FROM notes")
    refused = project.run("archive", "run", "old")
    assert refused.code == 6
    assert '"mt_streams" would run rules of the application (drops)' in refused.err
    assert connection.execute("SELECT count(*) FROM notes").fetchone() == (4,)


CASCADE = "FOREIGN KEY (event) REFERENCES mt_events (id) ON DELETE"
MADE_MEANWHILE = {
    "trigger": "CREATE TRIGGER drops AFTER DELETE ON mt_events EXECUTE FUNCTION drop_notes()",
    "of streams": "CREATE TRIGGER drops AFTER UPDATE ON mt_streams EXECUTE FUNCTION drop_notes()",
    "rule": "CREATE RULE drops AS ON DELETE TO mt_events DO ALSO DELETE FROM notes",
    "cascade": f"ALTER TABLE notes ADD {CASCADE} CASCADE",
    "set null": f"ALTER TABLE notes ADD {CASCADE} SET NULL",
}


def test_what_would_take_other_rows_along_is_looked_for_in_each_transaction(dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(
        "CREATE UNIQUE INDEX ON mt_events (id); CREATE TABLE notes (event uuid); "
        "CREATE FUNCTION drop_notes() RETURNS trigger LANGUAGE plpgsql AS "
        "$f$ BEGIN DELETE FROM notes; RETURN NULL; END $f$"
    )
    ten = timedelta(seconds=10)
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        archiving = store.archiving
        for number, (kind, made) in enumerate(MADE_MEANWHILE.items()):
            refs = []
            for stream in (f"a-{number}", f"b-{number}"):
                store.append(stream, [new(), new()])
                refs.append(StreamRef(stream, "", 2))
            connection.execute("INSERT INTO notes SELECT id FROM mt_events")
            batches = {each.stream: list(archiving.export([each])) for each in refs}
            first, second = (
                [VersionRange(StreamKey(each.stream), 1, 2, 2, True, batches[each.stream])]
                for each in refs
            )
            archiving.removal_strategy("delete")
            archiving.remove("delete", first, ten, ten)
            connection.execute("DELETE FROM notes n WHERE event NOT IN (SELECT id FROM mt_events)")
            (before,) = connection.execute("SELECT count(event) FROM notes").fetchone()
            connection.execute(made)
            with pytest.raises(Refused, match="which may delete|would also delete"):
                archiving.remove("delete", second, ten, ten)
            assert connection.execute("SELECT count(event) FROM notes").fetchone() == (before,)
            connection.execute(
                "DROP TRIGGER IF EXISTS drops ON mt_events; DROP TRIGGER IF EXISTS drops ON "
                "mt_streams; DROP RULE IF EXISTS drops ON mt_events; ALTER TABLE notes DROP "
                "CONSTRAINT IF EXISTS notes_event_fkey"
            )
            assert archiving.remove("delete", second, ten, ten)[0].reason is None, kind


def test_large_events_are_read_back_some_at_a_time(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("cart-1", [new(noise=os.urandom(100_000).hex()) for _ in range(80)])
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "keep"')
    project.ok("archive", "run", "old")
    ((run_, manifest),) = Catalog(
        Repository(load_config(project.folder / "esops.toml").archives["cold"])
    ).sealed()
    (entry,) = manifest.event_files
    sizes = [batch.nbytes for batch in run_.batches(entry)]
    assert sum(sizes) > 15 << 20
    assert max(sizes) < 12 << 20
    with open_store("cold", load_config(project.folder / "esops.toml").stores["cold"]) as cold:
        batches = [sum(len(event.data) for event in batch.events) for batch in cold.read_all()]
    assert sum(batches) > 15 << 20
    assert max(batches) < 12 << 20


def test_what_cannot_be_removed_is_archived_once_and_named_by_each_run(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        for number in range(4):
            store.append(f"cart-{number}", [new(), new()])
    connection.execute(
        "CREATE TABLE invoices (event bigint REFERENCES mt_events (seq_id));"
        "INSERT INTO invoices SELECT seq_id FROM mt_events WHERE version = 1 AND stream_id IN "
        "('cart-1', 'cart-2')"
    )
    write(project, of(dsn), 'store = "s"\nstream = "*"\nremove = "delete"')
    run_ = ("archive", "run", "old", "--output", "json")
    first = project.run(*run_)
    assert (first.code, first.json["removed"], first.json["stuck"]) == (1, 2, 2), first.err
    why = "rows of public.invoices refer to it (foreign key invoices_event_fkey"
    assert all(why in each["reason"] for each in first.json["skipped"])
    again = project.run(*run_)
    assert (again.code, again.json["state"], again.json["run"]) == (1, "nothing", None)
    assert (again.json["stuck"], again.json["streams"]) == (2, 0)
    for each in again.json["skipped"]:
        assert why in each["reason"]
        assert first.json["run"] in each["reason"]
    assert len(project.ok("archive", "list", "--output", "json").json) == 1
    planned_ = project.ok("archive", "plan", "old")
    assert "2 streams are left out, and a run would exit with 1" in planned_.out
    assert why in planned_.out
    # What changed is archived again: this is another history.
    with open_store("s", PostgresSettings(dsn=dsn, append="quick")) as store:
        store.append("cart-2", [new()])
    third = project.run(*run_)
    assert (third.code, third.json["streams"], third.json["events"]) == (1, 1, 3)
    assert third.json["stuck"] == 2
    # Nothing refers to them any more.
    connection.execute("DELETE FROM invoices")
    last = project.ok(*run_).json
    assert (last["removed"], last["removed_events"], last["stuck"]) == (2, 5, 0)
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone() == (0,)
