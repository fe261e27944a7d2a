"""`esops init`, `doctor` and `status`: what they find in databases that are well, and in each way
that they can be ill.
"""

from __future__ import annotations

import json
import os
import tomllib
import uuid

import psycopg
import pytest
from psycopg import sql

from esops.archive_format.manifest import sealed
from esops.config import load_config
from esops.events import NewEvent
from esops.health import doctor
from esops.health.findings import CODES
from esops.settings import PostgresSettings
from esops.stores import open_store
from tests.support import billing, emmett, eventsourcing, marten, messagedb, shop
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.waiting import DEADLINE, end

CODE = """
from esops import fold

@fold(key="stream")
def totals(row, event):
    return {"id": event.stream, "n": (row or {"n": 0})["n"] + 1}
"""


def configure(project, dsn: str, more: str = "") -> None:
    project.write(
        "esops.toml",
        f"""
[stores.shop]
dsn = {json.dumps(dsn)}
{more}
[projections.totals]
python = "totals:totals"
tables = ["totals"]
ddl = "totals.sql"
""",
    )
    project.write("totals.py", CODE)
    project.write("totals.sql", "CREATE TABLE {table} (id text PRIMARY KEY, n int);")


def findings(project, *arguments: str) -> dict[str, dict]:
    result = project.run("doctor", "--output", "json", *arguments)
    found = {each["code"]: each for each in result.json["findings"]}
    serious = [each for each in found.values() if each["severity"] != "note"]
    assert result.code == (1 if serious else 0)
    return found


# -- init


MAKERS = {
    "marten": lambda on: marten.create(on, marten.Variant(text_ids=True)),
    "emmett": emmett.create,
    "messagedb": messagedb.create,
    "eventsourcing": eventsourcing.create,
}


@pytest.mark.parametrize("layout", MAKERS)
def test_init_writes_a_configuration_that_works(project, dsn, connection, layout):
    MAKERS[layout](connection)
    connection.execute(
        'CREATE TABLE "carts" (_id text PRIMARY KEY, data jsonb, metadata jsonb, _version bigint)'
    )
    done = project.ok("init", "--dsn", dsn, "--output", "json").json
    assert [store["layout"] for store in done["stores"]] == [layout]
    assert done["read_models"] == ["public.carts"]
    written = tomllib.loads((project.folder / "esops.toml").read_text())
    (settings,) = written["stores"].values()
    assert settings["layout"] == layout
    assert project.ok("events").out == ""
    again = project.run("init", "--dsn", dsn)
    assert again.code == 2
    assert "exists already" in again.err


def test_init_finds_several_stores_and_names_each(project, dsn, connection):
    for make in MAKERS.values():
        make(connection)
    eventsourcing.create(connection, "payments")
    project.ok("init", "--dsn", dsn)
    written = tomllib.loads((project.folder / "esops.toml").read_text())
    assert len(written["stores"]) == 5
    for name in written["stores"]:
        assert project.ok("events", "--store", name).out == ""


def test_init_keeps_the_password_out_of_the_file(project, dsn, connection):
    emmett.create(connection)
    connection.execute(
        "CREATE ROLE carrier LOGIN PASSWORD 'hidden'; GRANT USAGE ON SCHEMA public TO carrier"
    )
    connection.execute(
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO carrier; GRANT SELECT ON ALL SEQUENCES IN "
        "SCHEMA public TO carrier"
    )
    try:
        project.ok("init", "--dsn", f"{dsn} user=carrier password=hidden")
        text = (project.folder / "esops.toml").read_text()
        assert "hidden" not in text
        assert "${ESOPS_STORE_PASSWORD}" in text
        assert project.run("events").code == 2
        project.environment["ESOPS_STORE_PASSWORD"] = "hidden"
        project.ok("events")
    finally:
        connection.execute("DROP OWNED BY carrier; DROP ROLE carrier")


def test_init_for_a_node_and_for_what_is_none(project, node, dsn):
    project.ok("init", "--uri", node.uri)
    assert (
        tomllib.loads((project.folder / "esops.toml").read_text())["stores"]["events"]["uri"]
        == node.uri
    )
    project.ok("events", "--limit", "1")
    kafka = project.run("init", "--dsn", "kafka://broker:9092", "--output-file", "other.toml")
    assert kafka.code == 2
    assert "a log of topics" in kafka.err
    nothing = project.run("init", "--dsn", dsn, "--output-file", "other.toml")
    assert nothing.code == 1
    assert "found no event store" in nothing.out
    tomllib.loads((project.folder / "other.toml").read_text())
    # The next step is one that can be done.
    assert "esops events" not in nothing.out
    (finding,) = project.run("doctor", "--config", "other.toml", "--output", "json").json[
        "findings"
    ]
    assert finding["code"] == "ESOPS-D052"
    assert "[stores.NAME]" in finding["fix"]
    assert project.run("init").code == 2
    assert project.run("init", "--dsn", dsn, "--dry-run").out.startswith("# Written by")


def test_init_tells_tenants_append_modes_and_tables_beside_a_checkpoint(project, dsn, connection):
    variant = marten.Variant(conjoined=True, text_ids=True, partitioned=True)
    marten.create(connection, variant)
    connection.execute(
        "CREATE SCHEMA shop; CREATE TABLE shop.orders (id text PRIMARY KEY); CREATE TABLE "
        "shop.loose (id text)"
    )
    connection.execute(
        "CREATE TABLE shop.projection_checkpoints (name text PRIMARY KEY, last_position bigint)"
    )
    for tenant in ("red", "blue"):
        with open_store("s", PostgresSettings(dsn=dsn, tenant=tenant)) as store:
            store.append("cart-1", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    done = project.ok("init", "--dsn", dsn, "--output", "json").json
    assert done["read_models"] == ["shop.orders"]
    assert "# Tenants seen: blue, red" in done["config"]
    assert "# partitioned by: is_archived" in done["config"]
    assert "Writers use rich appends" in done["config"]
    connection.execute(
        "CREATE FUNCTION mt_quick_append_events() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    assert '# append = "quick"' in project.ok("init", "--dsn", dsn, "--dry-run").out


def test_init_makes_a_store_of_each_tenant_that_has_numbers_of_its_own(project, dsn, connection):
    marten.create_numbered_by_tenant(connection)
    project.ok("init", "--dsn", dsn)
    stores = tomllib.loads((project.folder / "esops.toml").read_text())["stores"]
    assert [settings["tenant"] for settings in stores.values()] == ["Blue Inc", "Red Inc"]
    for name in stores:
        assert project.ok("events", "--store", name).out == ""


# -- doctor


def test_a_healthy_store_has_no_findings(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    assert findings(project) == {}
    assert project.ok("doctor").out == "0 findings\n"


def test_every_code_is_documented(project):
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs/reference/doctor.md").read_text()
    for code in CODES:
        assert f"### {code}" in page, code


def test_d015_d016_an_old_server_and_a_clock_that_differs(project, dsn, connection):
    """Seen by a doctor that asks for more: what is in the search path of the role does not stand
    before the server's own functions.
    """
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    project.patch(
        "from datetime import timedelta\n"
        "from esops.health import postgres, stores\n"
        "postgres.OLDEST, stores.MOST_SKEW = 99, timedelta(seconds=-1)\n"
    )
    found = findings(project)
    assert "is older than 99" in found["ESOPS-D015"]["message"]
    assert " s apart" in found["ESOPS-D016"]["message"]


def test_d025_d026_martens_ids_used_again_and_progress_that_nobody_makes(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True, partitioned=True))
    connection.execute(
        "INSERT INTO mt_streams (id, version, is_archived) VALUES ('a', 1, TRUE), ('b', 1, TRUE), "
        "('c', 1, FALSE)"
    )
    connection.execute(
        "INSERT INTO mt_event_progression VALUES ('HighWaterMark', 9), ('Carts:All', 9), "
        "('Late:All', 5)"
    )
    connection.execute("SELECT setval('mt_events_sequence', 9)")  # else nothing has these numbers
    configure(project, dsn)
    assert findings(project) == {}
    connection.execute("INSERT INTO mt_streams (id, version, is_archived) VALUES ('a', 1, FALSE)")
    connection.execute(
        "INSERT INTO mt_event_progression VALUES ('Gone:All', 4, now() - interval '2 days')"
    )
    found = findings(project)
    assert "1 id of archived streams used again, such as a" in found["ESOPS-D025"]["message"]
    assert "Gone:All" in found["ESOPS-D026"]["message"]
    connection.execute(found["ESOPS-D026"]["fix"])
    connection.execute("DELETE FROM mt_streams WHERE id = 'a' AND NOT is_archived")
    assert findings(project) == {}


def test_d027_a_disk_too_small_for_green(project, dsn, connection, monkeypatch):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute(
        "CREATE TABLE totals AS SELECT g::text AS id, 1 AS n FROM generate_series(1, 10000) g"
    )
    configure(project, dsn)
    config = load_config(project.folder / "esops.toml")
    assert doctor.examine(config) == []
    full = os.statvfs_result((4096, 4096, 1000, 90, 90, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    (found,) = doctor.examine(config)
    assert found.code == "ESOPS-D027"
    assert "368.6 kB are free" in found.message


def test_a_role_that_may_not_see_where_the_server_keeps_its_data_is_told_nothing_wrong(
    project, dsn, connection
):
    marten.create(connection, marten.Variant(text_ids=True))
    connection.execute("CREATE ROLE nobody_much LOGIN")
    try:
        configure(project, f"{dsn} user=nobody_much")
        assert findings(project).keys() == {"ESOPS-D001", "ESOPS-D010", "ESOPS-D024"}, (
            "rights are missing, and the read model can be reached"
        )
    finally:
        connection.execute("DROP ROLE nobody_much")


def test_d028_slots_that_keep_wal(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    connection.execute("SELECT pg_create_physical_replication_slot('esops_d028', true)")
    try:
        found = findings(project)["ESOPS-D028"]
        assert "slot esops_d028 has no consumer" in found["message"]
    finally:
        connection.execute("SELECT pg_drop_replication_slot('esops_d028')")
    assert found["fix"].startswith("SELECT pg_drop_replication_slot('esops_d028')")
    assert findings(project) == {}


@pytest.mark.thorough
def test_d029_a_replica_that_lags(project, own_server):
    with (
        own_server.replica() as replica,
        psycopg.connect(own_server.dsn(), autocommit=True) as primary,
    ):
        marten.create(primary, marten.Variant(text_ids=True))
        configure(project, own_server.dsn())
        with psycopg.connect(replica.dsn(), autocommit=True) as connection:
            connection.execute("SELECT pg_wal_replay_pause()")
            primary.execute(
                "CREATE TABLE filler AS SELECT repeat(md5(g::text), 50) FROM generate_series(1, "
                "2000) g"
            )
            little = "from esops.health import room\nroom.LAG_BYTES = 1 << 20\n"
            project.patch(little)
            assert findings(project) == {}, "far behind, and not for long"
            # A minute of lag without waiting for it.
            project.patch(
                f"from datetime import timedelta\n{little}room.LAG_TIME = timedelta(seconds=-1)\n"
            )
            assert "of WAL behind" in findings(project)["ESOPS-D029"]["message"]


def test_d030_d031_a_configuration_that_is_allowed_and_not_meant(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    others = f'[readmodels.a]\ndsn = "{dsn}"\n[readmodels.b]\ndsn = "{dsn} password=hidden"'
    configure(project, dsn, f'layout = "marten"\nordering = "position"\n{others}')
    text = (project.folder / "esops.toml").read_text()
    project.write(
        "esops.toml", text.replace('ddl = "totals.sql"', 'ddl = "totals.sql"\nreadmodel = "a"')
    )
    result = project.run("doctor", "--output", "json")
    found = [(each["code"], each["message"]) for each in result.json["findings"]]
    assert [code for code, _ in found] == ["ESOPS-D030", "ESOPS-D031", "ESOPS-D031"]
    for (_, message), named in zip(
        found, ("readmodels.b", "ordering", "readmodels.b"), strict=True
    ):
        assert named in message
    assert "hidden" not in result.out


def test_the_worst_finding_comes_first_and_is_the_one_to_read_about(project):
    project.write(
        "esops.toml",
        '[stores.s]\ndsn = "host=127.0.0.1 port=1"\nlayout = "marten"\nordering = "position"\n',
    )
    lines = project.run("doctor").out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("ESOPS")] == [
        "ESOPS-D001",
        "ESOPS-D031",
    ]
    assert lines[-1].endswith("ESOPS-D001")


def test_d032_d033_d034_archives_that_are_away_failed_or_unfinished(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    policy = (
        "[archives.cold]\nrepository = 'cold'\n[archives.cold.policies.old]\nstream = "
        "'*'\nremove = 'delete'\nnever_younger_than = '0s'\n"
    )
    configure(project, dsn, f'append = "quick"\n{policy}')
    assert findings(project).keys() == {"ESOPS-D050"}, "no run has made the folder yet"
    (project.folder / "cold").mkdir()
    assert findings(project).keys() == {"ESOPS-D050"}, "an empty mount point is no archive"
    connection.execute("INSERT INTO mt_event_progression VALUES ('Late:All', 0)")
    assert project.run("archive", "run", "old").code == 6
    plan = ("archive", "plan", "old", "--output", "json")
    assert "archive plan old" in findings(project)["ESOPS-D034"]["message"]
    assert project.ok(*plan).json["unfinished"]["late"][0]["despite"] == "Late:All"
    connection.execute("DELETE FROM mt_event_progression")
    project.ok(*findings(project)["ESOPS-D034"]["fix"].split()[1:])
    assert findings(project).keys() == {"ESOPS-D049"}, "a rebuild would miss what was removed"
    run = next((project.folder / "cold" / "runs").iterdir())
    (run / "failed.json").write_bytes(
        sealed({"format": "esops-archive", "version": 1, "problems": []})
    )
    assert "failed its verification" in findings(project)["ESOPS-D033"]["message"]
    (run / "manifest.json").write_text("{}")
    assert "manifest.json" in findings(project)["ESOPS-D032"]["message"]
    configure(project, dsn, policy.replace("'cold'", "'totals.py'"))
    assert "ESOPS-D032" in findings(project)


@pytest.mark.thorough
def test_a_plan_names_the_readers_that_are_late(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    configure(
        project,
        dsn,
        'append = "quick"\n[archives.cold]\nrepository = "cold"\n[archives.cold.policies.old]\n'
        "stream = '*'\nremove = 'delete'\nnever_younger_than = '0s'\n",
    )
    plan = ("archive", "plan", "old", "--output", "json")
    assert project.ok(*plan).json["late"] == []
    connection.execute("INSERT INTO mt_event_progression VALUES ('Late:All', 0)")
    assert [each["despite"] for each in project.ok(*plan).json["late"]] == ["Late:All"]
    assert project.ok(*plan, "--remove", "keep").json["late"] == []
    assert "--despite Late:All" in project.ok("archive", "plan", "old").out
    unknown = project.run("archive", "run", "old", "--despite", "Late:Al")
    assert (unknown.code, "Did you mean 'Late:All'?" in unknown.err) == (2, True)


def test_d001_d002_what_cannot_be_reached(project, dsn, connection):
    configure(project, "host=localhost port=1 dbname=x")
    found = findings(project)
    assert set(found) == {"ESOPS-D001", "ESOPS-D002"}
    assert found["ESOPS-D001"]["subject"] == "store shop"
    assert found["ESOPS-D001"]["documentation"] == "esops docs doctor ESOPS-D001"


def test_d003_code_that_does_not_load(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    project.write("totals.py", "def other(): pass")
    assert "totals" in findings(project)["ESOPS-D003"]["message"]
    configure(project, dsn)
    (project.folder / "totals.sql").unlink()
    assert "no file totals.sql" in findings(project)["ESOPS-D003"]["message"]


def test_d004_a_log_of_topics(project):
    project.write("esops.toml", '[stores.shop]\ndsn = "kafka://broker:9092"\n')
    assert "a log of topics" in findings(project)["ESOPS-D004"]["message"]


def test_d010_d024_rights_that_are_missing_and_the_grants_that_give_them(project, dsn, connection):
    emmett.create(connection)
    connection.execute("CREATE ROLE guest LOGIN; GRANT USAGE ON SCHEMA public TO guest")
    connection.execute(
        "GRANT SELECT ON emt_messages TO guest; GRANT SELECT ON SEQUENCE "
        "emt_global_message_position TO guest"
    )
    connection.execute("GRANT SELECT ON emt_streams TO guest")
    try:
        configure(project, f"{dsn} user=guest")
        found = findings(project)
        assert found["ESOPS-D010"]["fix"] == 'GRANT SELECT ON "public"."emt_processors" TO "guest";'
        assert "create" in found["ESOPS-D024"]["message"]
        for _ in range(5):
            missing = [found[code] for code in ("ESOPS-D010", "ESOPS-D024") if code in found]
            for each in missing:
                connection.execute(each["fix"])
            if not missing:
                break
            found = findings(project)
        assert not found.keys() & {"ESOPS-D010", "ESOPS-D024"}
        project.ok("rebuild", "totals", "--blue-green")
        project.ok("events")
        project.ok("status")
    finally:
        connection.execute("DROP OWNED BY guest; DROP ROLE guest")


def test_d001_d002_a_denied_schema_is_named_with_the_grant(project, dsn, connection):
    marten.create(connection, marten.Variant(schema="events", text_ids=True))
    configure(project, dsn, 'schema = "events"')
    project.ok("rebuild", "totals", "--blue-green")
    connection.execute("CREATE ROLE guest LOGIN")
    try:
        configure(project, f"{dsn} user=guest", 'schema = "events"')
        for code, schema in (("ESOPS-D001", "events"), ("ESOPS-D002", "esops")):
            fix = findings(project)[code]["fix"]
            assert fix.startswith(f'GRANT USAGE ON SCHEMA "{schema}" TO "guest";'), fix
            assert "esops doctor --grants guest" in fix
            connection.execute(fix)
    finally:
        connection.execute("DROP OWNED BY guest; DROP ROLE guest")


def test_d011_a_sequence_that_gives_out_numbers_ahead(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    connection.execute("ALTER SEQUENCE mt_events_sequence CACHE 20")
    fix = findings(project)["ESOPS-D011"]["fix"]
    connection.execute(fix)
    assert findings(project) == {}


def test_d012_who_holds_the_head_back(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn, 'settle_timeout = "500ms"\nhole_threshold = "300ms"')
    with psycopg.connect(dsn) as slow:
        slow.execute("SELECT nextval('mt_events_sequence')")
        connection.execute(
            "INSERT INTO mt_streams (id, version) VALUES ('s', 1); INSERT INTO mt_events (seq_id, "
            "id, stream_id, version, data, type) "
            "VALUES (nextval('mt_events_sequence'), gen_random_uuid(), 's', 1, '{}', 'x')"
        )
        message = findings(project)["ESOPS-D012"]["message"]
        assert str(slow.info.backend_pid) in message
        shown = project.ok("status", "--output", "json").json["stores"][0]
        assert str(slow.info.backend_pid) in shown["detail"]
        slow.rollback()
    assert "ESOPS-D012" not in findings(project)


def test_d013_d014_events_of_the_future_and_an_index_that_is_not_there(project, dsn, connection):
    emmett.create(connection)
    configure(project, dsn)
    found = findings(project)
    assert set(found) == {"ESOPS-D014"}
    assert found["ESOPS-D014"]["severity"] == "note"
    connection.execute(found["ESOPS-D014"]["fix"])
    assert findings(project) == {}
    connection.execute(
        "INSERT INTO emt_messages (stream_id, stream_position, transaction_id, message_kind, "
        "message_schema_version, message_id, "
        "message_type, message_data, message_metadata, partition) "
        "VALUES ('s-1', 1, '99999999', 'E', '1', 'id-1', 'opened', '{}', '{}', 'emt:default')"
    )
    assert "future" in findings(project)["ESOPS-D013"]["message"]
    warned = project.run("status", "--output", "json")
    assert (warned.code, warned.json["stores"][0]["ok"]) == (1, False)


def test_d005_a_sequence_that_contradicts_its_events(project, dsn, connection):
    shop.make(dsn, 10)
    shop.configure(project, dsn)
    connection.execute("SELECT setval('shop.mt_events_sequence', 3)")
    found = findings(project)
    assert "ESOPS-D001" not in found
    assert "setval" in found["ESOPS-D005"]["fix"]
    shown = project.run("status", "--output", "json")
    assert (shown.code, shown.json["stores"][0]["ok"]) == (1, False)
    connection.execute(found["ESOPS-D005"]["fix"].partition(": ")[2])
    assert "ESOPS-D005" not in findings(project)
    project.ok("status")


@pytest.mark.thorough
def test_d017_d018_d019_what_a_node_lacks(project, dsn):
    with Nodes("--no-system-projections") as nodes:
        billing.configure(project, nodes.uri, dsn)
        assert set(findings(project)) == {"ESOPS-D017"}
        client = nodes.client()
        client.create_projection(query="fromAll().when({", name="broken")
        stream = f"s-{uuid.uuid4()}"
        from esdbclient import NewEvent, StreamState

        client.create_subscription_to_stream("group", stream)
        client.append_to_stream(
            stream, current_version=StreamState.ANY, events=[NewEvent("bad", b"{}")]
        )
        subscription = client.read_subscription_to_stream("group", stream, timeout=DEADLINE)
        subscription.nack(next(subscription), "park")
        for _ in range(50):
            found = findings(project)
            if "ESOPS-D019" in found:
                break
        assert "1 parked message" in found["ESOPS-D019"]["message"]
        assert "broken has faulted" in found["ESOPS-D018"]["message"]
        subscription.stop()
        client.close()


def test_d020_d021_d022_d023_what_rebuilds_leave_behind(project, dsn, connection):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    assert set(findings(project)) == {"ESOPS-D022"}
    connection.execute("CREATE TABLE cart_summary__v9 (n int)")
    found = findings(project)
    assert found["ESOPS-D021"]["fix"] == 'DROP TABLE "public"."cart_summary__v9";'
    connection.execute(found["ESOPS-D021"]["fix"])
    shop.configure(
        project,
        dsn,
        code=shop.PROJECTION.replace('"items": 0, "total": 0', '"items": 1, "total": 0'),
    )
    assert project.run("rebuild", "--blue-green").code == 1
    found = findings(project)
    assert "stopped in state paused" in found["ESOPS-D020"]["message"]
    project.ok("rebuild", "--blue-green", "--abort", "--yes")
    assert "ESOPS-D020" not in findings(project)
    connection.execute(
        "INSERT INTO esops.dead_letters (projection, version, position, event_id, stream, "
        "stream_version, type, error) "
        "VALUES ('cart_summary', 1, '1', 'e', 's', 1, 't', 'x')"
    )
    assert "1 event could not be projected" in findings(project)["ESOPS-D023"]["message"]


# -- rights


@pytest.mark.parametrize(
    "layout",
    thorough_but(["marten", "emmett", "messagedb"], "marten"),
)
def test_a_role_with_the_printed_grants_runs_each_command(project, dsn, connection, layout):
    MAKERS[layout](connection)
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        for n in range(5):
            store.append(f"cart-{n}", [NewEvent(str(uuid.uuid4()), "opened", b"{}")])
    connection.execute("CREATE ROLE least LOGIN")
    try:
        configure(project, dsn)
        granted = project.ok("doctor", "--grants", "least", "--output", "json").json["statements"]
        for statement in granted:
            connection.execute(statement)
        configure(project, f"{dsn} user=least")
        for command in (
            ("events",),
            ("rebuild", "totals", "--blue-green"),
            ("rebuild", "totals", "--blue-green"),
            ("run", "--until-caught-up"),
            ("projection", "rollback", "totals"),
            ("projection", "show", "totals"),
            ("projection", "retire", "totals", "--yes"),
            ("status",),
            ("metrics",),
        ):
            project.ok(*command)
        assert "ESOPS-D010" not in findings(project)
    finally:
        connection.execute("DROP OWNED BY least; DROP ROLE least")


@pytest.mark.thorough
@pytest.mark.parametrize("layout", ["marten", "emmett", "messagedb"])
def test_a_role_without_one_of_the_printed_grants_is_told_which(project, dsn, connection, layout):
    MAKERS[layout](connection)
    connection.execute("CREATE ROLE least LOGIN")
    try:
        configure(project, dsn)
        granted = project.ok("doctor", "--grants", "least", "--output", "json").json["statements"]
        for statement in granted:
            connection.execute(statement)
        configure(project, f"{dsn} user=least")
        project.ok("rebuild", "totals", "--blue-green")
        for statement in granted:
            if "SELECT" not in statement:
                continue
            name = statement.rpartition('"."')[2].partition('"')[0]
            connection.execute(statement.replace("GRANT", "REVOKE").replace(" TO ", " FROM "))
            found = findings(project)
            assert name in json.dumps(found), statement
            assert found.keys() & {"ESOPS-D010", "ESOPS-D001"}
            connection.execute(statement)
    finally:
        connection.execute("DROP OWNED BY least; DROP ROLE least")


def test_the_grants_for_message_db_let_a_role_read_and_rebuild(project, dsn, connection):
    messagedb.create(connection)
    connection.execute("CREATE ROLE least LOGIN")
    try:
        configure(project, dsn)
        for statement in project.ok("doctor", "--grants", "least", "--output", "json").json[
            "statements"
        ]:
            connection.execute(statement)
        configure(project, f"{dsn} user=least")
        project.ok("rebuild", "totals", "--blue-green")
        assert not findings(project).keys() & {"ESOPS-D001", "ESOPS-D010", "ESOPS-D024"}
    finally:
        connection.execute("DROP OWNED BY least; DROP ROLE least")


# -- status


def test_status_shows_stores_processors_versions_and_rebuilds(project, dsn, connection):
    shop.make(dsn, 300)
    shop.configure(project, dsn)
    never = project.ok("status", "--output", "json").json
    assert never["projections"][0]["state"] == "never built"
    project.ok("rebuild", "--blue-green")
    shown = project.ok("status", "--output", "json").json
    (store,) = shown["stores"]
    assert (store["store"], store["backend"], store["layout"], store["ok"]) == (
        "shop",
        "postgres",
        "marten",
        True,
    )
    (version,) = shown["projections"]
    expected = {
        "projection": "cart_summary",
        "version": 1,
        "active": 1,
        "state": "active",
        "lag_events": 0,
        "lag_seconds": 0.0,
    }
    assert {key: version[key] for key in expected} == expected
    assert version["position"] == store["head"]
    assert shown["rebuilds"][0]["state"] == "switched"
    assert shown["archives"] == []
    text = project.ok("status").out
    assert "cart_summary" in text
    assert "switched" in text


def test_status_shows_the_checkpoints_that_are_there(project, dsn, connection, dumps):
    for name, expected in [
        ("emmett-0.42.0", "400"),
        ("eventsourcing-9.5.6", "150"),
        ("message-db-1.3.1", "700"),
    ]:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        emmett.restore(connection, (dumps / f"{name}.sql").read_text())
        (project.folder / "esops.toml").unlink(missing_ok=True)
        project.ok("init", "--dsn", dsn)
        stores = tomllib.loads((project.folder / "esops.toml").read_text())["stores"]
        wanted = name.partition("-")[0].replace("message", "messagedb")
        store = next(each for each, settings in stores.items() if settings["layout"] == wanted)
        # Its processor stands still: exit code 1.
        shown = project.run("status", "--store", store, "--output", "json").json
        positions = [
            each["position"].rpartition(":")[2] for each in shown["processors"] if each["position"]
        ]
        assert expected in positions, name
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS message_store CASCADE"))


def test_status_of_what_cannot_be_reached_shows_the_rest(project, dsn, connection):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn, '[stores.gone]\ndsn = "host=localhost port=1 dbname=x"\n')
    text = (
        (project.folder / "esops.toml")
        .read_text()
        .replace("[projections.totals]", '[projections.totals]\nstore = "shop"')
    )
    project.write("esops.toml", text)
    result = project.run("status", "--output", "json")
    assert result.code == 3
    by_name = {each["store"]: each for each in result.json["stores"]}
    assert by_name["shop"]["ok"]
    assert "cannot be reached" in by_name["gone"]["detail"]
    assert project.run("status", "--store", "nothing").code == 2


def test_status_of_a_node(project, node, dsn):
    billing.configure(project, node.uri, dsn)
    shown = project.ok("status", "--output", "json").json
    assert shown["stores"][0]["layout"] == "eventstoredb"
    assert "$by_category" in [each["name"] for each in shown["processors"]]


# -- metrics


def test_metrics_on_stdout_in_a_file_and_over_http(project, dsn, connection):
    import re
    import urllib.request

    shop.make(dsn, 300)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    text = project.ok("metrics").out
    assert 'esops_store_up{backend="postgres",layout="marten",store="shop"} 1.0' in text
    assert (
        'esops_version_lag_events{projection="cart_summary",state="active",version="1"} 0.0' in text
    )
    assert (
        'esops_version_followed{projection="cart_summary",state="active",version="1"} 0.0' in text
    )
    assert 'esops_rebuild{projection="cart_summary",state="switched"} 1.0' in text
    project.ok("metrics", "--output-file", "esops.prom")
    assert "esops_version_rows" in (project.folder / "esops.prom").read_text()
    server = project.start("metrics", "--serve", "0")
    address = re.search(r"127\.0\.0\.1:\d+", server.stderr.readline())[0]
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        assert b"esops_store_up" in answer.read()
    end(server)
    assert server.returncode == 0
    assert project.run("metrics", "--serve", "x").code == 2


@pytest.mark.parametrize(
    "columns",
    thorough_but(["40", "80", "120"], "40"),
)
def test_status_cuts_no_name_and_no_version_at_any_width(project, dsn, connection, columns):
    marten.create(connection, marten.Variant(text_ids=True))
    configure(project, dsn)
    text = (project.folder / "esops.toml").read_text()
    store, projection = "shop-of-the-northern-region", "totals_of_all_open_carts"
    text = text.replace("stores.shop", f"stores.{store}")
    text = text.replace("projections.totals", f"projections.{projection}")
    project.write("esops.toml", text)
    project.ok("rebuild", "--blue-green")
    # What makes rich take a pipe for a terminal.
    project.environment |= {"FORCE_COLOR": "1", "COLUMNS": columns}
    shown = project.run("status").out
    assert store in shown
    assert projection in shown
    assert "version" in shown
    assert "…" not in shown
