"""What events name as their cause and is no event: spans, messages, a root's own correlation; in
databases that the real libraries wrote, and in rows of their shape.
"""

from __future__ import annotations

import json
import re
import uuid

import pytest

from tests.support import emmett

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPANS = ("b7ad6b7169203331", "00f067aa0ba902b7")
PARENTS = tuple(f"00-{TRACE}-{span}-01" for span in SPANS)


@pytest.fixture
def restored(project, dsn, connection, dumps):
    """Restore a dump; gives its truth."""

    def one(name: str, more: str = ""):
        emmett.restore(connection, (dumps / f"{name}.sql").read_text())
        connection.execute("RESET ALL")
        project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n{more}")
        return json.loads((dumps / f"{name}.json").read_text())

    return one


def traced(project, *arguments: str) -> dict:
    return project.ok("trace", *arguments, "--output", "json").json


def kinds(found: dict) -> dict[str, str | None]:
    return {each["id"]: each["cause_kind"] for each in found["events"]}


def spans(project, *arguments: str) -> dict[str, dict]:
    """The spans of an export, by the event's id."""
    document = project.ok("trace", *arguments, "--format", "otlp").json
    given = [
        span
        for resource in document["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    return {
        next(
            it["value"]["stringValue"] for it in span["attributes"] if it["key"] == "event.id"
        ): span
        for span in given
    }


def open_telemetry(connection) -> dict[str, list[str]]:
    """Give some of v2's events what Marten writes under OpenTelemetry. v2 has events of a root
    activity only, which have no cause.
    """
    ids = {}
    for name, correlation, cause, low, high in (
        ("first", TRACE, None, 30, 31),
        ("second", TRACE, PARENTS[0], 53, 54),
        ("third", "order-4712", PARENTS[1], 60, 61),
        ("absent", None, PARENTS[1], 70, 70),
    ):
        rows = connection.execute(
            "UPDATE es.mt_events SET correlation_id = %s, causation_id = %s "
            "WHERE seq_id BETWEEN %s AND %s AND id::text NOT IN "
            "(SELECT causation_id FROM es.mt_events WHERE causation_id IS NOT NULL) "
            "RETURNING id::text",
            [correlation, cause, low, high],
        )
        ids[name] = [each for (each,) in rows]
        assert ids[name]
    return ids


def test_martens_traceparents_are_spans_and_find_their_siblings(project, connection, restored):
    restored("marten-9.58-v2", 'schema = "es"\n')
    ids = open_telemetry(connection)
    everything = {each for some in ids.values() for each in some}
    for start in ("second", "third", "absent", "first"):
        found = traced(project, "event", ids[start][0])
        assert {each["id"] for each in found["events"]} == everything, start
        assert found["missing_causes"] == []
        assert kinds(found) == {
            each: None if each in ids["first"] else "span" for each in everything
        }
        assert [(it["kind"], it["trace_id"], it["span_id"]) for it in found["outside_causes"]] == [
            ("span", TRACE, span) for span in SPANS
        ]
        assert set(found["outside_causes"][1]["events"]) == {*ids["third"], *ids["absent"]}
    found = traced(project, "correlation", TRACE)
    assert {each["id"] for each in found["events"]} == everything
    exported = spans(project, "event", ids["second"][0])
    assert {span["traceId"] for span in exported.values()} == {TRACE}
    parents = {each: exported[each].get("parentSpanId") for each in everything}
    assert {parents[each] for each in ids["first"]} == {None}
    assert {parents[each] for each in ids["second"]} == {SPANS[0]}
    assert {parents[each] for each in (*ids["third"], *ids["absent"])} == {SPANS[1]}
    shown = project.ok("trace", "event", ids["second"][0])
    assert f"span {SPANS[0]} of trace {TRACE}" in shown.out
    assert "missing" not in shown.out + shown.err
    page = project.ok("trace", "event", ids["second"][0], "--format", "html").out
    assert f"span {SPANS[0]} of trace {TRACE}" in page
    assert "Missing causes" not in page


def test_a_search_for_a_trace_has_its_index_or_refuses(project, dsn, connection, restored):
    restored("marten-9.58-v2", 'schema = "es"\n[trace]\nscan_limit = 100\n')
    ids = open_telemetry(connection)
    refused = project.run("trace", "correlation", TRACE)
    assert refused.code == 6
    hint = re.search(r"create an index: ([^`]*)", refused.err)[1]
    connection.execute("CREATE INDEX ON es.mt_events (id)")
    connection.execute("CREATE INDEX ON es.mt_events ((correlation_id))")
    # The index of correlations answers that, and not which events name a span of the trace.
    refused = project.run("trace", "correlation", TRACE)
    assert refused.code == 6
    hint = re.search(r"create an index: ([^`]*)", refused.err)[1]
    assert "left(" in hint
    for statement in hint.strip().splitlines():
        connection.execute(statement)
    found = traced(project, "correlation", TRACE)
    assert len(found["events"]) == sum(map(len, ids.values()))
    assert all("index" in how for how in found["searched"])
    connection.execute("CREATE INDEX ON es.mt_events (causation_id)")  # for effects
    assert len(traced(project, "event", ids["third"][0])["events"]) == len(found["events"])


@pytest.mark.thorough
def test_wolverines_messages_are_the_causes_of_their_events(project, connection, restored):
    truth = restored("marten-9.58-v6")
    rows = connection.execute(
        "SELECT id::text, correlation_id, causation_id FROM mt_events ORDER BY seq_id"
    ).fetchall()
    assert len(rows) == truth["Events"]
    placed = next(row for row in rows if sum(row[1] == each[1] for each in rows) == 2)
    found = traced(project, "correlation", placed[1])
    assert set(kinds(found).values()) == {"message"}
    assert found["missing_causes"] == []
    assert [(each["kind"], each["events"]) for each in found["outside_causes"]] == [
        ("message", [row[0]]) for row in rows if row[1] == placed[1]
    ]
    shown = project.ok("trace", "correlation", placed[1])
    assert f"message {placed[2]}, not stored as an event\n└─ order_placed" in shown.out
    assert "missing" not in shown.out + shown.err
    # A handler that appends to several streams, with no correlation that they share.
    message = placed[2]
    others = [row[0] for row in rows if row[1] != placed[1]][:3]
    connection.execute(
        "UPDATE mt_events SET causation_id = upper(replace(%s, '-', '')) WHERE id::text = ANY(%s)",
        [message, others],
    )
    found = traced(project, "event", placed[0])
    assert {each["id"] for each in found["events"]} == {placed[0], *others}
    assert [set(each["events"]) for each in found["outside_causes"]] == [{placed[0], *others}]
    for form, edge in (("mermaid", "o0 --> e3"), ("dot", "o0 -> e3")):
        assert edge in project.ok("trace", "event", placed[0], "--format", form).out
    page = project.ok("trace", "event", placed[0], "--format", "html").out
    assert f"message {found['outside_causes'][0]['id']}, not stored as an event" in page


def test_emmetts_roots_name_their_correlation(project, connection, restored):
    truth = restored("emmett-0.43.0-beta.39")["trace"]
    found = traced(project, "correlation", truth["correlationId"])
    assert [each["id"] for each in found["events"]] == [
        each["id"] for each in found["events"] if each["correlation_id"] == truth["correlationId"]
    ]
    assert list(kinds(found)) == truth["eventIds"]
    assert found["missing_causes"] == []
    roots = [each for each in found["events"] if each["cause_kind"] == "correlation"]
    assert {each["id"] for each in roots} == set(found["roots"])
    assert {each["causation_id"] for each in roots} == {truth["correlationId"]}
    assert list(kinds(found).values()).count("event") == len(found["events"]) - len(roots)
    exported = spans(project, "correlation", truth["correlationId"])
    assert len({each["spanId"] for each in exported.values()}) == len(found["events"])
    for each in found["events"]:
        span = exported[each["id"]]
        assert span["traceId"] == each["trace_id"]
        above = exported.get(each["causation_id"])
        links = [(it["traceId"], it["spanId"]) for it in span.get("links", [])]
        if above is not None and above["traceId"] == each["trace_id"]:
            assert span["parentSpanId"] == above["spanId"]
            assert links == [(each["trace_id"], each["span_id"])]
        else:
            assert span["parentSpanId"] == each["span_id"]
    # What one append wrote is found by its trace, also where the correlations differ.
    first, second = connection.execute(
        "SELECT message_id FROM emt_messages WHERE message_metadata->>'spanId' = %s",
        ["9e4aac29e6dea7ee"],
    ).fetchmany(2)
    other = uuid.uuid4().hex
    connection.execute(
        "UPDATE emt_messages SET message_metadata = message_metadata || jsonb_build_object("
        "'correlationId', %s::text, 'causationId', %s::text) WHERE message_id = %s",
        [other, other, second[0]],
    )
    found = traced(project, "event", first[0])
    assert kinds(found)[second[0]] == "correlation"


def test_an_event_that_is_gone_is_still_missing(project, connection, restored):
    truth = restored("emmett-0.43.0-beta.39")["trace"]
    (trigger,) = connection.execute(
        "DELETE FROM emt_messages WHERE message_id IN (SELECT message_metadata->>'causationId' "
        "FROM emt_messages WHERE message_id = %s) RETURNING message_id",
        [truth["eventIds"][-1]],
    ).fetchone()
    found = traced(project, "event", truth["eventIds"][-1])
    assert found["missing_causes"] == [trigger]
    assert kinds(found)[truth["eventIds"][-1]] == "missing"
    shown = project.ok("trace", "event", truth["eventIds"][-1])
    assert f"its cause {trigger} is missing" in shown.out
    assert f"missing causes: {trigger}" in shown.err


def test_message_dbs_cause_in_a_stream_is_missing_where_it_was_deleted(
    project, connection, restored
):
    truth = restored("message-db-1.3.1")["trace"]
    found = traced(project, "correlation", truth["correlationStreamName"])
    assert found["missing_causes"] == []
    effect = next(each for each in found["events"] if each["cause_kind"] == "event")
    stream, position = connection.execute(
        "SELECT metadata->>'causationMessageStreamName', metadata->>'causationMessagePosition' "
        "FROM message_store.messages WHERE id::text = %s",
        [effect["id"]],
    ).fetchone()
    connection.execute(
        "DELETE FROM message_store.messages WHERE stream_name = %s AND position = %s",
        [stream, int(position)],
    )
    found = traced(project, "event", effect["id"])
    assert found["missing_causes"] == [f"{stream}/{position}"]


def test_a_cause_is_the_event_that_has_its_id_in_any_writing(project, connection, restored):
    restored("marten-9.58-v2", 'schema = "es"\n')
    cause = connection.execute("SELECT causation_id FROM es.mt_events WHERE seq_id = 5").fetchone()[
        0
    ]
    plain = cause.replace("-", "").upper()
    connection.execute(
        "UPDATE es.mt_events SET causation_id = %s, correlation_id = %s WHERE seq_id IN (5, 6)",
        [plain, cause],  # its correlation, too: an id that names an event is that event
    )
    effects = [
        each
        for (each,) in connection.execute(
            "SELECT id::text FROM es.mt_events WHERE seq_id BETWEEN 5 AND 7 ORDER BY seq_id"
        )
    ]
    for start in (effects[0], cause, plain):
        found = traced(project, "event", start)
        assert cause in kinds(found), start
        assert kinds(found)[effects[0]] == "event"
        assert {each["causation_id"] for each in found["events"] if each["id"] in effects} == {
            cause
        }
    found = traced(project, "event", cause)
    assert set(effects) <= set(kinds(found))
    # The cart's own events name a command, whose id is a text: no event of Marten's has such an id.
    assert found["missing_causes"] == []
    assert [each["id"] for each in found["outside_causes"]] == ["command-0"]


def test_a_table_of_ones_own_has_spans_and_messages_in_its_columns(project, dsn, connection):
    connection.execute(
        "CREATE TABLE facts (number bigserial PRIMARY KEY, id text, subject text, version int, "
        "kind text, body jsonb DEFAULT '{}', about jsonb, request text, cause text)"
    )
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        [stores.shop.table]
        name = "facts"
        stream = "subject"
        version = "version"
        position = "number"
        type = "kind"
        data = "body"
        metadata = "about"
        id = "id"
        correlation = "request"
        causation = "cause"
        """,
    )

    def add(id: str, cause: str | None, request: str | None = None, **about: str) -> None:
        connection.execute(
            "INSERT INTO facts (id, subject, version, kind, about, request, cause) "
            "VALUES (%s, %s, 1, 'happened', %s, %s, %s)",
            [id, f"s-{id}", json.dumps(about), request, cause],
        )

    add("e1", PARENTS[0], "r1")
    add("e2", PARENTS[0], None)
    add("e3", None, "r3", traceId=str(uuid.UUID(TRACE)), spanId=SPANS[1])
    add("e4", "r4", "r4", traceparent=PARENTS[1])
    add("e5", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "r5")  # W3C: invalid, so no span
    found = traced(project, "event", "e1")
    assert kinds(found) == {"e1": "span", "e2": "span", "e3": None, "e4": "correlation"}
    assert {each["id"]: each["span_id"] for each in found["events"]} == {
        "e1": None,
        "e2": None,
        "e3": SPANS[1],
        "e4": SPANS[1],
    }
    exported = spans(project, "event", "e1")
    assert {each["traceId"] for each in exported.values()} == {TRACE}
    assert [exported[each].get("parentSpanId") for each in ("e1", "e2", "e3", "e4")] == [
        SPANS[0],
        SPANS[0],
        SPANS[1],
        SPANS[1],
    ]
    # Where no other event says what this application names, an id may well be an event's.
    found = traced(project, "event", "e5")
    assert kinds(found) == {"e5": "unknown"}
    assert len(found["missing_causes"]) == 1


def test_an_archive_finds_the_events_of_a_trace(project, connection, restored):
    restored(
        "marten-9.58-v6",
        """
        archive = "cold"
        [archives.cold]
        repository = "cold"
        [archives.cold.policies.all]
        store = "shop"
        stream = "*"
        remove = "delete"
        """,
    )
    rows = connection.execute(
        "UPDATE mt_events SET causation_id = %s, correlation_id = 'c-' || seq_id "
        "WHERE seq_id <= 6 RETURNING id::text",
        [PARENTS[0]],
    ).fetchall()
    project.ok("archive", "run", "all", "--despite-checkpoints")
    assert connection.execute("SELECT count(*) FROM mt_events").fetchone()[0] == 0
    found = traced(project, "event", rows[0][0])
    assert set(kinds(found)) == {each for (each,) in rows}
    assert set(kinds(found).values()) == {"span"}
    assert len(traced(project, "correlation", TRACE)["events"]) == 6


@pytest.mark.parametrize("own", ["message-db", "OpenTelemetry"])
def test_audit_sees_causes_in_every_form(project, connection, restored, own):
    restored("message-db-1.3.1")
    if own == "OpenTelemetry":
        about = json.dumps({"traceparent": PARENTS[0]})
        connection.execute("UPDATE message_store.messages SET metadata = %s", [about])
    noticed = project.run("audit", "modelling", "--output", "json").json["observations"]
    assert {each["rule"] for each in noticed} == {"no-business-verb"}
    connection.execute("UPDATE message_store.messages SET metadata = '{}'")
    noticed = project.run("audit", "modelling", "--output", "json").json["observations"]
    assert {each["rule"] for each in noticed} >= {"missing-causation", "missing-correlation"}


def test_an_emmett_command_is_a_message_and_not_missing(project, connection, restored):
    """What a processor of commands appends names the command, a row of the same table."""
    truth = restored("emmett-0.43.0-beta.39")["trace"]
    (command,) = truth["commandIds"]
    effect = truth["eventIds"][-1]
    connection.execute(
        "UPDATE emt_messages SET message_metadata = message_metadata || jsonb_build_object("
        "'causationId', %s::text) WHERE message_id = %s",
        [str(uuid.UUID(command)), effect],
    )
    found = traced(project, "event", effect)
    assert kinds(found)[effect] == "message"
    assert found["missing_causes"] == []


def test_a_message_is_known_by_its_id_beside_events_that_name_events(project, connection, restored):
    """Wolverine's ids are no UUIDs of RFC 9562, as Marten's events have."""
    restored("marten-9.58-v6")
    first, second = connection.execute(
        "SELECT id::text FROM mt_events WHERE seq_id IN (1, 20) ORDER BY seq_id"
    ).fetchall()
    gone = str(uuid.uuid4())
    for cause, seq in ((first[0], 20), (gone, 2)):
        connection.execute("UPDATE mt_events SET causation_id = %s WHERE seq_id = %s", [cause, seq])
    assert kinds(traced(project, "event", second[0])) == {first[0]: "message", second[0]: "event"}
    of_gone = connection.execute("SELECT id::text FROM mt_events WHERE seq_id = 2").fetchone()[0]
    found = traced(project, "event", of_gone)
    assert kinds(found)[of_gone] == "missing"
    assert found["missing_causes"] == [gone]
