"""Audits and traces of databases that the real libraries wrote, and of a shop, as a user asks for
them.
"""

from __future__ import annotations

import base64
import json
import uuid

import orjson
import pytest
from google.protobuf.json_format import ParseDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from esops.audit.estimate import estimate
from esops.audit.streams import audit_streams
from esops.events import EventFilter, NewEvent
from esops.settings import AuditSettings, PostgresSettings
from esops.stores import open_store
from tests.support import emmett, marten, messagedb
from tests.support.cases import thorough_but

CONFIG = """
[stores.bank]
dsn = {dsn}
[audit]
closed_by = ["Closed", "ShoppingCartConfirmed", "ShoppingCartCancelled"]
[audit.budgets]
"*" = {budget}
"""


@pytest.fixture(
    params=thorough_but(
        ["emmett-0.42.0", "message-db-1.3.1", "eventsourcing-9.5.6"],
        "emmett-0.42.0",
        "eventsourcing-9.5.6",
    )
)
def restored(request, dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / f"{request.param}.sql").read_text())
    connection.execute("ANALYZE")
    project.write("esops.toml", CONFIG.format(dsn=json.dumps(dsn), budget=100))
    return json.loads((dumps / f"{request.param}.json").read_text())


def test_lengths_are_the_truth_and_the_long_one_breaks_the_budget(restored, project):
    truth = restored["streams"]
    for more in ([], ["--count"]):
        result = project.run("audit", "streams", "--output", "json", *more)
        assert result.code == 1, result.err
        found = result.json
        assert {each["stream"]: each["length"] for each in found["streams"]} == truth
        assert found["summary"]["streams"] == len(truth)
        assert found["summary"]["events"] == sum(truth.values())
        assert found["summary"]["max"] == max(truth.values())
        long = {name: length for name, length in truth.items() if length > 100}
        assert {each["stream"]: each["value"] for each in found["findings"]} == long
        assert {(each["rule"], each["limit"]) for each in found["findings"]} == {("length", 100)}
        assert found["findings_total"] == len(long)
    assert all(each["first_at"] <= each["last_at"] for each in found["streams"])
    rows = [
        json.loads(line)
        for line in project.ok("audit", "streams", "--all", "--output", "ndjson").out.splitlines()
    ]
    assert {each["stream"]: each["length"] for each in rows} == truth


def test_without_a_broken_budget_nothing_is_found(restored, project, dsn):
    project.write("esops.toml", CONFIG.format(dsn=json.dumps(dsn), budget=10_000))
    found = project.ok(
        "audit", "streams", "--longest", "3", "--percentiles", "--growth", "--since", "3650d"
    )
    assert "No budget is broken." in found.out
    assert len(
        project.ok("audit", "streams", "--over", "100", "--output", "json").json["streams"]
    ) == sum(length > 100 for length in restored["streams"].values())


def test_types_and_one_stream_are_the_truth(restored, project):
    found = {
        each["type"]: each["events"]
        for each in project.ok("audit", "events", "--output", "json").json["types"]
    }
    assert sum(found.values()) == sum(restored["streams"].values())
    if "types" in restored:
        assert found == restored["types"]
    name, length = max(restored["streams"].items(), key=lambda each: each[1])
    one = project.ok("audit", "stream", name, "--output", "json").json
    assert (one["length"], one["gaps"]) == (length, [])
    assert sum(each["events"] for each in one["types"]) == length
    assert project.ok("audit", "stream", name).out.startswith(f"{name}: {length} events")
    assert project.run("audit", "stream", "nonesuch").code == 1
    assert project.run("audit", "modelling", "--output", "json").code in (0, 1)


def test_the_traced_ids_are_the_truth(restored, project):
    if "trace" not in restored:
        assert project.run("trace", "correlation", "nonesuch").code == 1
        return
    truth = restored["trace"]
    value = truth.get("correlationId") or truth["correlationStreamName"]
    ids = truth.get("eventIds") or truth["messageIds"]
    found = project.ok("trace", "correlation", value, "--output", "json").json
    traced = [each for each in found["events"] if each["correlation_id"] == value]
    assert [each["id"] for each in traced] == ids
    assert found["missing_causes"] == [] or "causationId" not in truth
    for form in ("tree", "html", "otlp"):
        assert project.ok("trace", "correlation", value, "--format", form).out.strip()
    of_one = project.ok("trace", "event", ids[0], "--output", "json").json
    assert ids[0] in [each["id"] for each in of_one["events"]]
    stream = traced[0]["stream"]
    assert (
        len(project.ok("trace", "stream", stream, "--output", "json").json["events"])
        >= restored["streams"][stream]
    )


def test_what_is_not_there_is_said(restored, project):
    for arguments in (
        ("correlation", "none"),
        ("event", "00000000-0000-4000-8000-000000000000"),
        ("stream", "none"),
    ):
        result = project.run("trace", *arguments)
        assert result.code == 1
        assert f"no event was found for {' '.join(arguments)} in bank" in result.err


CHAIN = "0b1c2a4e-8f6d-4c55-9d0e-3a2b1c0d9e{:02x}"


def chained(number: int, cause: int | None, correlation: str = "request-1") -> NewEvent:
    about = {"correlationId": correlation} | (
        {"causationId": CHAIN.format(cause)} if cause is not None else {}
    )
    return NewEvent(CHAIN.format(number), f"step_{number}_taken", b"{}", orjson.dumps(about))


@pytest.fixture
def chain(dsn, connection, project):
    """1 -> 2 -> 3 over three streams, 4 from 2, and 5 from something that is not there, among a
    thousand others.
    """
    marten.create(connection, marten.Variant(text_ids=True, optional=True))
    # In the middle of the appends it would note that there are fewer events.
    connection.execute("ALTER TABLE mt_events SET (autovacuum_enabled = false)")
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n")
    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        for number in range(50):
            store.append(
                f"cart-{number}",
                [NewEvent(str(uuid.uuid4()), "item_added", b'{"sku": 1}') for _ in range(20)],
            )
        store.append("a-1", [chained(1, None)])
        store.append("b-1", [chained(2, 1)])
        store.append("c-1", [chained(3, 2)])
        store.append("a-1", [chained(4, 2)])
        store.append("d-1", [chained(5, 99)])
    return connection


def test_causes_and_effects_across_streams(chain, project):
    found = project.ok("trace", "event", CHAIN.format(2), "--output", "json").json
    assert [(each["id"], each["depth"]) for each in found["events"]] == [
        (CHAIN.format(1), 0),
        (CHAIN.format(2), 1),
        (CHAIN.format(3), 2),
        (CHAIN.format(4), 2),
    ]
    assert [each["causation_id"] for each in found["events"]][1:] == [
        CHAIN.format(1),
        CHAIN.format(2),
        CHAIN.format(2),
    ]
    whole = project.ok("trace", "correlation", "request-1", "--output", "json").json
    assert whole["missing_causes"] == [CHAIN.format(99)]
    assert len(whole["roots"]) == 2
    shown = project.ok("trace", "correlation", "request-1")
    assert "INDEX" not in shown.err  # the store is small
    assert f"its cause {CHAIN.format(99)} is missing" in shown.out
    assert (
        "Other events within 1h"
        in project.ok("trace", "stream", "b-1", "--format", "timeline", "--around", "1h").out
    )
    project.ok("trace", "event", CHAIN.format(1), "--format", "dot", "-o", "trace.dot")
    assert (project.folder / "trace.dot").read_text().count(" -> ") == 3


@pytest.mark.thorough
def test_an_index_answers_once_there_is_one(chain, project):
    chain.execute("CREATE INDEX ON mt_events ((correlation_id))")
    with open_store("shop", PostgresSettings(dsn=chain.info.dsn)) as store:
        found = store.search.find(correlation_id="request-1")
        assert found.scans is None
        assert len(list(found.events)) == 5
        assert store.search.find(causation_id="x").scans == 1_005
    # Those of causes and effects are missing still.
    shown = project.ok("trace", "correlation", "request-1", "--format", "tree")
    assert '"correlation_id"' not in shown.err


def test_a_scan_of_a_large_store_is_refused_until_told(chain, project):
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + "\n[trace]\nscan_limit = 100\n")
    result = project.run("trace", "correlation", "nonesuch")
    assert result.code == 6
    assert "would read about 1,0" in result.err
    assert project.run("trace", "correlation", "nonesuch", "--scan").code == 1


@pytest.mark.thorough
def test_a_rule_that_there_is_not_and_other_mistakes(chain, project):
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + "\n[audit.rules]\ncrud-event = false\n")
    assert project.run("audit", "modelling").code == 2
    project.write("esops.toml", text + "\n[audit.budgets]\ncart = { lenght = 3 }\n")
    result = project.run("audit", "streams")
    assert result.code == 2
    assert "length" in result.err
    project.write(
        "esops.toml", text + "\n[audit.budgets]\ncart = { growth_per_day = 1, bytes = 10 }\n"
    )
    found = project.run("audit", "streams", "--output", "json")
    assert found.code == 1
    assert {each["rule"] for each in found.json["findings"]} == {"growth_per_day", "bytes"}
    assert project.run("audit", "streams", "--since", "soon").code == 2


@pytest.mark.thorough
def test_several_stores_are_searched_together(chain, project, dsn):
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + f"[stores.again]\ndsn = {json.dumps(dsn)}\n")
    both = project.ok(
        "trace",
        "correlation",
        "request-1",
        "--store",
        "shop",
        "--store",
        "again",
        "--output",
        "json",
    ).json
    assert {each["store"] for each in both["events"]} == {"shop", "again"}
    assert len(both["events"]) == 10
    assert (
        both
        == project.ok(
            "trace", "correlation", "request-1", "--store", "all", "--output", "json"
        ).json
    )
    assert (
        len(
            project.ok(
                "--store", "shop", "trace", "correlation", "request-1", "--output", "json"
            ).json["events"]
        )
        == 5
    )
    assert project.run("trace", "correlation", "request-1").code == 2


def test_otlp_is_what_the_protocol_reads(chain, project):
    """Parsed by OpenTelemetry's own schema; ids are hex in OTLP's JSON, and base64 in that of
    protocol buffers.
    """
    told = project.ok("trace", "correlation", "request-1", "--format", "otlp").json
    ids = set()
    for resource in told["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                assert (len(span["traceId"]), len(span["spanId"])) == (32, 16)
                ids.add(span["spanId"])
                for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
                    span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    read = ParseDict(told, ExportTraceServiceRequest())
    spans = [
        span
        for resource in read.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [span.name for span in spans] == [f"step_{number}_taken" for number in (1, 2, 3, 4, 5)]
    assert len(ids) == 5
    assert all(span.start_time_unix_nano <= span.end_time_unix_nano for span in spans)
    parents = {span.name: span.parent_span_id for span in spans}
    by_name = {span.name: span.span_id for span in spans}
    assert parents["step_4_taken"] == parents["step_3_taken"] == by_name["step_2_taken"]
    assert parents["step_1_taken"] == b""
    assert len({span.trace_id for span in spans}) == 1


def test_an_estimate_holds_the_truth_and_small_tables_are_counted(dsn, connection, project):
    messagedb.create(connection)
    connection.execute(
        "INSERT INTO message_store.messages (position, stream_name, type, data) "
        "SELECT row_number() OVER (PARTITION BY s ORDER BY n) - 1, s, 'Happened', "
        "jsonb_build_object('text', repeat('x', 200)) "
        "FROM (SELECT n, 'cart-' || floor(exp(8 * random())) AS s FROM generate_series(1, 50000) "
        "n) g ORDER BY n"
    )
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        truth = audit_streams(store, AuditSettings()).whole
        guessed = estimate(store, EventFilter(), pages=150)
        assert guessed is not None
        # Intervals of 95 % are missed now and then: those of four times the width are not.
        for name, value in (("streams", truth.streams), ("events", truth.events)):
            estimated = guessed.summary[name]
            width = estimated.high - estimated.low
            assert 0 < width < value
            low, high = estimated.value - 2 * width, estimated.value + 2 * width
            assert low <= value <= high, (name, estimated, value)
        middle, width = (
            guessed.summary["p50"],
            guessed.summary["p50"].high - guessed.summary["p50"].low,
        )
        assert middle.low - 2 * width <= truth.percentiles([0.5])[0] <= middle.high + 2 * width
        assert guessed.longest_seen <= truth.longest
        assert guessed.categories[0][0] == "cart"
        assert estimate(store, EventFilter(), pages=700) is None
    project.write("esops.toml", f"[stores.s]\ndsn = {json.dumps(dsn)}\n")
    counted = project.ok("audit", "streams", "--estimate")
    assert "counted instead of estimated" in counted.err
    assert "50,000 events" in counted.out


def test_tenants_histograms_and_writers_that_compete(dsn, connection, project):
    marten.create(connection, marten.Variant(text_ids=True, optional=True, conjoined=True))
    project.write("esops.toml", f"[stores.s]\ndsn = {json.dumps(dsn)}\n")
    for tenant in ("blue", "red"):
        with open_store("s", PostgresSettings(dsn=dsn, tenant=tenant)) as store:
            store.append("cart-1", [chained(1, None, "one"), chained(2, 1, "one")])
            store.append("cart-1", [chained(3, None, "two")])
    connection.execute(
        "UPDATE mt_events SET timestamp = '2026-01-01'::timestamptz + version * interval '40 ms'"
    )
    shown = project.ok("audit", "streams", "--percentiles").out
    assert "tenant" in shown
    assert "red" in shown
    assert "1 to 3" in shown
    assert "█" in shown
    document = project.ok("audit", "streams", "--output", "json").json
    assert {
        (each["category"], each["tenant"], each["events"]) for each in document["categories"]
    } == {
        ("cart", "blue", 3),
        ("cart", "red", 3),
    }
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + 'tenant = "red"\n')
    assert (
        project.ok("audit", "stream", "cart-1", "--output", "json").json["competing_writers"] == 1
    )
    assert "1 time two commands wrote within 100 ms" in project.ok("audit", "stream", "cart-1").out


def test_a_long_count_is_announced(dsn, connection, monkeypatch):
    messagedb.create(connection)
    monkeypatch.setattr("esops.audit.streams.MANY", 5)
    said: list[str] = []
    with open_store("s", PostgresSettings(dsn=dsn)) as store:
        store.append("cart-1", [NewEvent(str(uuid.uuid4()), "Opened", b"{}") for _ in range(9)])
        audit_streams(store, AuditSettings(), say=said.append)
    assert len(said) == 1
    assert "about 9 events" in said[0]
    assert "--estimate" in said[0]


@pytest.mark.thorough
def test_a_map_of_months_needs_more_than_one(chain, project, connection):
    def drawn() -> bool:
        project.run("audit", "streams", "--report", "page.html")
        page = (project.folder / "page.html").read_text()
        assert 'id="growth"' in page
        return 'id="months"' in page

    assert not drawn()
    connection.execute(
        "UPDATE mt_events SET timestamp = timestamp - interval '70 days' WHERE seq_id = 1"
    )
    assert drawn()
