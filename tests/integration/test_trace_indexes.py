"""How a trace searches: under which keys of the metadata, and with the indexes that its hints
create.
"""

from __future__ import annotations

import json
import re
import uuid

import pytest

from tests.support import emmett, messagedb

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


def traced(project, *arguments: str) -> list[str]:
    found = project.ok("trace", *arguments, "--output", "json").json
    return [each["stream"] for each in found["events"]]


def create_as_hinted(connection, refused) -> None:
    (hint,) = re.findall(r"create an index:\s(.*)", refused.err, re.DOTALL)
    statements = [line for line in hint.strip().splitlines() if line.startswith("CREATE")]
    assert statements, (refused.out, refused.err)
    for statement in statements:
        connection.execute(statement)


@pytest.fixture
def bank(project, dsn, connection):
    messagedb.create(connection)
    project.write("esops.toml", f"[stores.bank]\ndsn = {json.dumps(dsn)}\n")

    def write(stream: str, position: int, metadata: dict | None) -> None:
        connection.execute(
            "INSERT INTO message_store.messages (position, stream_name, type, metadata) "
            "VALUES (%s, %s, 'Sold', %s)",
            (position, stream, metadata and json.dumps(metadata)),
        )

    def fill() -> None:
        connection.execute(
            "INSERT INTO message_store.messages (position, stream_name, type, metadata) "
            "SELECT n, 'till-1', 'Sold', '{\"correlationId\": \"x\"}' FROM generate_series(0, 1500) n"
        )

    return write, fill


def test_keys_that_are_written_no_more_are_searched_as_well(project, bank):
    write, fill = bank
    write("account-1", 0, {"traceparent": PARENT})
    of_old = {"correlationStreamName": "old-1"}
    write("account-2", 0, of_old)
    cause = {"causationMessageStreamName": "account-2", "causationMessagePosition": 0}
    write("account-3", 0, of_old | cause)
    fill()
    assert traced(project, "correlation", TRACE) == ["account-1"]
    assert traced(project, "correlation", "old-1") == ["account-2", "account-3"]
    nothing = project.run("trace", "correlation", "new-1")
    assert (nothing.code, "correlationStreamName" in nothing.err) == (1, True)


def test_the_index_of_a_partitioned_table_can_be_created_as_hinted(project, dsn, connection, dumps):
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    connection.execute("RESET ALL")
    project.write(
        "esops.toml",
        f'[stores.shop]\ndsn = {json.dumps(dsn)}\ntenant = "emt:default"\n[trace]\nscan_limit = 10\n',
    )
    trace = "SELECT message_metadata ->> 'traceId' FROM emt_messages LIMIT 1"
    ((wanted,),) = connection.execute(trace).fetchall()
    for _ in range(5):  # by correlation, by trace, by id and by cause
        found = project.run("trace", "correlation", wanted)
        if "create an index" not in found.err:
            break
        create_as_hinted(connection, found)
    assert found.code == 0, found.err
    assert "scan" not in found.err


def test_a_table_of_ones_own_finds_ids_and_traces_by_its_indexes(project, dsn, connection):
    """It has columns for correlation and causation beside its metadata, and ids that are UUIDs."""
    connection.execute(
        "CREATE TABLE events (number bigserial PRIMARY KEY, id uuid UNIQUE, stream text, "
        "version int, kind text, data jsonb, about jsonb, request text, because text, "
        "UNIQUE (stream, version))"
    )
    project.write(
        "esops.toml",
        f"""
        [stores.own]
        dsn = {json.dumps(dsn)}
        layout = "custom"
        [stores.own.table]
        name = "events"
        stream = "stream"
        version = "version"
        position = "number"
        type = "kind"
        data = "data"
        metadata = "about"
        id = "id"
        correlation = "request"
        causation = "because"
        [trace]
        scan_limit = 10
        """,
    )
    first = str(uuid.uuid4())
    connection.execute(
        "INSERT INTO events (id, stream, version, kind, data, about, request) "
        "SELECT CASE n WHEN 1 THEN %s::uuid ELSE gen_random_uuid() END, 's-' || n, 1, 'K', '{}', "
        "CASE n WHEN 1 THEN %s::jsonb ELSE '{}' END, 'r-' || n FROM generate_series(1, 100) n",
        (first, json.dumps({"traceparent": PARENT})),
    )
    assert traced(project, "correlation", "r-7", "--scan") == ["s-7"]
    for _ in range(4):
        found = project.run("trace", "event", first)
        if found.code == 0:
            break
        assert '"id"' not in found.err, "its own index answers"
        create_as_hinted(connection, found)
    assert found.code == 0, found.err
    for _ in range(4):
        found = project.run("trace", "correlation", TRACE)
        if found.code == 0:
            break
        create_as_hinted(connection, found)
    assert (found.code, "s-1" in found.out) == (0, True), found.err


def test_an_index_counts_by_its_first_column_and_is_not_proposed_twice(project, bank, connection):
    write, fill = bank
    write("account-1", 0, {"traceparent": PARENT})
    fill()
    text = (project.folder / "esops.toml").read_text()
    project.write("esops.toml", text + "[trace]\nscan_limit = 10\n")
    by = "metadata ->> 'correlationId'"
    connection.execute(f"CREATE INDEX ON message_store.messages (stream_name, ({by}))")
    refused = project.run("trace", "correlation", "y")
    assert refused.code == 6, (refused.out, refused.err)
    create_as_hinted(connection, refused)
    again = project.run("trace", "correlation", "y")
    if again.code == 6:  # for its spans
        assert f"({by})" not in again.err
        assert "'correlationId'" not in again.err
    found = project.run("trace", "correlation", TRACE)
    assert (found.code, "'correlationId'" in found.err) == (6, False)
