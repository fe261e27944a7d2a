"""What belongs to a trace: causes and effects in several stores, what the limit leaves out, and
causes that were not found.
"""

from __future__ import annotations

import json
import uuid

import psycopg
import pytest

from tests.support import emmett, messagedb

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def traced(project, *arguments: str) -> dict:
    return project.ok("trace", *arguments, "--output", "json").json


def parents(found: dict) -> dict[str, str | None]:
    """For each event's store and stream, what it names as its cause."""
    return {f"{it['store']}/{it['stream']}": it["causation_id"] for it in found["events"]}


def streams(found: dict) -> list[str]:
    return [each["stream"] for each in found["events"]]


def caused_by(stream: str, version: int = 0, correlation: str | None = None) -> dict:
    about = {"causationMessageStreamName": stream, "causationMessagePosition": version}
    return about if correlation is None else about | {"correlationStreamName": correlation}


class Messages:
    """A message-db in a database."""

    def __init__(self, connection) -> None:
        messagedb.create(connection)
        self._connection = connection

    def write(self, stream: str, metadata: object = None, position: int = 0) -> str:
        identifier = str(uuid.uuid4())
        self._connection.execute(
            "INSERT INTO message_store.messages (id, position, stream_name, type, metadata) "
            "VALUES (%s, %s, %s, 'Happened', %s)",
            (identifier, position, stream, json.dumps(metadata) if metadata is not None else None),
        )
        return identifier


@pytest.fixture
def bank(project, dsn, connection) -> Messages:
    project.write("esops.toml", f"[stores.bank]\ndsn = {json.dumps(dsn)}\n")
    return Messages(connection)


@pytest.fixture
def acme(project, dsn, connection, dumps):
    """Marten's events of one tenant: gives a function that writes ids into some of them."""
    emmett.restore(connection, (dumps / "marten-9.58-v2.sql").read_text())
    connection.execute("RESET ALL")
    project.write("esops.toml", f'[stores.shop]\ndsn = {json.dumps(dsn)}\nschema = "es"\n')
    connection.execute("UPDATE es.mt_events SET correlation_id = NULL, causation_id = NULL")
    rows = connection.execute("SELECT id::text FROM es.mt_events ORDER BY seq_id").fetchall()

    def write(number: int, correlation: str | None, cause: str | None) -> str:
        connection.execute(
            "UPDATE es.mt_events SET correlation_id = %s, causation_id = %s WHERE id::text = %s",
            (correlation, cause, rows[number][0]),
        )
        return rows[number][0]

    return write


@pytest.fixture
def two_banks(project, dsn, connection):
    """Two stores with streams of the same names."""
    name = "second_" + uuid.uuid4().hex[:8]
    connection.execute(f"CREATE DATABASE {name}")
    other = psycopg.conninfo.make_conninfo(dsn, dbname=name)
    with psycopg.connect(other, autocommit=True) as second:
        project.write(
            "esops.toml",
            f"[stores.one]\ndsn = {json.dumps(dsn)}\n[stores.two]\ndsn = {json.dumps(other)}\n",
        )
        yield Messages(connection), Messages(second)
    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_each_store_has_its_own_causes_and_effects(project, two_banks):
    for each in two_banks:
        each.write("account-1", {})
        last = each.write("account-2", caused_by("account-1"))
    two_banks[0].write("account-3", caused_by("account-2"))
    found = traced(project, "event", last, "--store", "all")
    assert parents(found).keys() == {"two/account-1", "two/account-2"}
    assert found["events"][1]["causation_id"] == found["events"][0]["id"]


def test_another_stores_event_is_the_cause_where_the_own_store_has_none(project, two_banks):
    one, two = two_banks
    cause = one.write("command-1", {})
    two.write("account-2", caused_by("command-1"))
    for how in (("event", cause), ("stream", "account-2")):
        found = traced(project, *how, "--store", "all")
        assert parents(found) == {"one/command-1": None, "two/account-2": cause}


def test_effects_of_a_root_and_of_what_the_correlation_found_are_found(project, bank):
    start = bank.write("account-1")
    correlated = bank.write("order-1", {"correlationStreamName": "x"})
    bank.write("order-2", caused_by("order-1", 0, "x"))
    bank.write("account-2", caused_by("account-1"))
    bank.write("account-3", caused_by("account-2"))
    bank.write("order-3", caused_by("order-2"))
    assert streams(traced(project, "event", start)) == ["account-1", "account-2", "account-3"]
    assert streams(traced(project, "event", correlated)) == ["order-1", "order-2", "order-3"]
    assert len(traced(project, "stream", "account-1")["events"]) == 3


def test_other_events_effects_do_not_use_up_the_limit(project, bank):
    for number in range(30):
        last = bank.write("command-1", {}, number)
        bank.write(f"effect-{number}", caused_by("command-1", number))
    found = traced(project, "event", last, "--limit", "5")
    assert (streams(found), found["limited"]) == (["command-1", "effect-29"], False)


def test_texts_with_a_slash_are_messages_and_hide_no_effects(project, acme):
    first = acme(0, "k0", "POST /carts")
    second = acme(1, "k1", first)
    acme(2, "k2", second)
    acme(3, "k3", "PUT /carts/12")
    found = traced(project, "event", first)
    assert len(found["events"]) == 3
    assert [each["id"] for each in found["outside_causes"]] == ["POST /carts"]
    found = traced(project, "event", acme(3, "k3", "PUT /carts/12"))
    assert found["events"][0]["cause_kind"] == "message"
    assert found["missing_causes"] == []
    odd = acme(4, None, "x/" + "9" * 5_000)
    assert traced(project, "event", odd)["events"][0]["cause_kind"] == "message"


def test_blank_ids_connect_nothing(project, acme):
    first = acme(0, "", "")
    acme(1, "", " ")
    found = traced(project, "event", first)
    assert [each["cause_kind"] for each in found["events"]] == [None]
    assert found["outside_causes"] == []


def test_causes_that_are_gone_do_not_vouch_for_each_other(project, acme):
    gone = [str(uuid.uuid4()) for _ in range(2)]
    first = acme(0, None, gone[0])
    acme(1, None, gone[1])
    found = traced(project, "event", first)
    assert found["missing_causes"] == [gone[0]]
    assert found["events"][0]["cause_kind"] == "unknown"
    shown = project.ok("trace", "event", first)
    assert f"{gone[0]} was not found: an event that is gone, or a message" in shown.out
    assert f"missing causes: {gone[0]}" in shown.err
    # An event that is named as a cause shows that events are.
    acme(3, None, acme(2, None, None))
    assert traced(project, "event", first)["events"][0]["cause_kind"] == "missing"


def test_the_version_of_a_uuid_makes_no_message_of_an_event_that_is_gone(project, bank):
    before = None
    for number in range(30):
        about = {} if before is None else {"causationId": before}
        before = bank.write(f"cart-{number}", about)
    gone = str(uuid.uuid1())
    found = traced(project, "event", bank.write("order-1", {"causationId": gone}))
    assert found["missing_causes"] == [gone]
    assert found["events"][0]["cause_kind"] == "missing"


def test_what_the_limit_left_out_is_not_missing(project, acme):
    chain = [acme(0, "m", None)]
    for number in range(1, 4):
        chain.append(acme(number, "m", chain[-1]))
    for how in (("event", chain[3]), ("correlation", "m")):
        found = traced(project, *how, "--limit", "2")
        assert (found["limited"], len(found["events"])) == (True, 2)
        assert found["missing_causes"] == []
    found = traced(project, "event", chain[3], "--limit", "1")
    assert found["events"][0]["cause_kind"] == "not_loaded"
    assert found["not_loaded"] == [chain[2]]
    shown = project.ok("trace", "event", chain[3], "--limit", "1")
    assert f"its cause {chain[2]} is not loaded" in shown.out
    assert "it stopped at 1 event (--limit)" in shown.err
    assert "missing" not in shown.out + shown.err


@pytest.mark.parametrize("asked", [TRACE, TRACE.upper(), str(uuid.UUID(TRACE)), PARENT], ids=str)
def test_a_trace_is_found_by_its_id_in_any_writing(project, acme, asked):
    root = acme(0, TRACE, None)
    other = acme(1, "order-1", PARENT)
    assert {it["id"] for it in traced(project, "correlation", asked)["events"]} == {root, other}
    for start in (root, other):
        assert len(traced(project, "event", start)["events"]) == 2


def test_a_trace_is_the_same_from_each_of_its_roots(project, bank):
    starts = [
        bank.write("a-1", {"traceId": TRACE, "correlationId": "x1"}),
        bank.write("b-1", {"traceId": TRACE, "correlationId": "x2"}),
        bank.write("c-1", {"traceparent": PARENT}),
    ]
    for start in starts:
        assert streams(traced(project, "event", start)) == ["a-1", "b-1", "c-1"]


def test_an_index_of_correlations_shows_a_trace_and_what_was_not_looked_up(
    project, acme, connection
):
    (project.folder / "esops.toml").write_text(
        (project.folder / "esops.toml").read_text() + "[trace]\nscan_limit = 10\n"
    )
    connection.execute("CREATE INDEX ON es.mt_events (correlation_id)")
    gone = str(uuid.uuid4())
    acme(0, "m", gone)
    found = traced(project, "correlation", "m")
    assert [each["cause_kind"] for each in found["events"]] == ["not_loaded"]
    assert "causes of these events" in found["not_searched"][0]
    shown = project.ok("trace", "correlation", "m")
    assert "not searched: the causes of these events" in shown.err


def test_a_chain_without_an_index_does_not_cost_a_scan_for_each_link(project, acme, connection):
    chain = [acme(0, None, None)]
    for number in range(1, 60):
        chain.append(acme(number, None, chain[-1]))
    scans = (
        "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE schemaname = 'es' "
        "AND relname LIKE 'mt_events%'"
    )
    connection.execute("SELECT pg_stat_reset()")
    assert len(traced(project, "event", chain[30])["events"]) == 60
    connection.execute("SELECT pg_sleep(1)")
    ((made,),) = connection.execute(scans).fetchall()
    assert made < 100  # each of three partitions counts


def test_audit_looks_for_ids_where_traces_do(project, bank):
    for number in range(10):
        bank.write("cart-1", {"req": f"r{number}", "why": f"w{number}"}, number)

    def rules() -> set[str]:
        found = project.run("audit", "modelling", "--output", "json").json["observations"]
        return {each["rule"] for each in found}

    missing = {"missing-correlation", "missing-causation"}
    assert rules() >= missing
    text = (project.folder / "esops.toml").read_text()
    keys = '[trace]\ncorrelation = ["req"]\ncausation = ["why"]\n'
    (project.folder / "esops.toml").write_text(text + keys)
    assert rules().isdisjoint(missing)


def test_audit_takes_blank_ids_for_none(project, bank):
    for number in range(10):
        bank.write("cart-1", {"correlationId": "", "causationId": " "}, number)
    found = project.run("audit", "modelling", "--output", "json").json["observations"]
    assert {each["rule"] for each in found} >= {"missing-correlation", "missing-causation"}


def test_a_store_and_its_archive_have_the_same_events(project, bank, dsn, connection):
    """The archive keeps a copy of each stream's last event, which the store keeps, too."""
    written = [
        bank.write("cart-1", {"correlationId": "k"}, 0),
        bank.write("cart-1", {"correlationId": "k"}, 1),
    ]
    connection.execute("UPDATE message_store.messages SET time = time - interval '400 days'")
    written.append(bank.write("order-1", {"correlationId": "k", "causationId": written[0]}))
    project.write(
        "esops.toml",
        f"""
        [stores.cold]
        backend = "archive"
        archive = "cold"
        of = "bank"
        [stores.bank]
        dsn = {json.dumps(dsn)}
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.old]
        store = "bank"
        category = "cart"
        idle_for = "30d"
        remove = "delete"
        """,
    )
    project.ok("archive", "run", "old", "--store", "bank", "--despite-checkpoints")
    alone = traced(project, "event", written[2], "--store", "bank")
    assert alone["missing_causes"] == [written[0]]
    for how in (("event", written[2]), ("correlation", "k")):
        found = traced(project, *how, "--store", "all")
        assert found["duplicates"] == []
        assert found["missing_causes"] == []
        assert {each["store"] for each in found["events"]} == {"bank"}
        assert len({each["id"] for each in found["events"]}) == len(found["events"])
    assert [each["id"] for each in found["events"]] == written
    assert found["events"][2]["cause_kind"] == "event"


def test_streams_of_several_tenants_are_told_apart(project, acme):
    acme(0, None, None)
    found = traced(project, "stream", "cart-000")
    tenants = {each["tenant"] for each in found["events"]}
    assert len(tenants) > 1
    shown = project.ok("trace", "stream", "cart-000").out
    assert all(f" {tenant}/cart-000 @1" in shown for tenant in tenants)
