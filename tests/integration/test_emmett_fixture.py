"""A database that Emmett 0.42 itself wrote: rebuilt blue-green, it equals the truth and the
library's own documents.
"""

from __future__ import annotations

import json

import pytest

from tests.support import emmett

PROJECTION = """
from esops import fold

ENDS = {"ShoppingCartConfirmed": "confirmed", "ShoppingCartCancelled": "cancelled"}

@fold(key="stream")
def cart_summary(row, event):
    data = event.json()
    if event.type == "ShoppingCartOpened":
        return {"cart_id": event.stream, "client_id": data["clientId"], "items": 0, "total": 0, "status": "open"}
    if event.type in ENDS:
        return {**row, "status": ENDS[event.type]}
    sign = 1 if event.type == "ProductItemAdded" else -1
    return {
        **row,
        "items": row["items"] + sign * data["quantity"],
        "total": row["total"] + sign * data["quantity"] * data["unitPrice"],
    }
"""


@pytest.fixture
def restored(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "emmett-0.42.0.sql").read_text())
    truth = json.loads((dumps / "emmett-0.42.0.json").read_text())
    project.write("emmett_projection.py", PROJECTION)
    project.write(
        "carts.sql",
        "CREATE TABLE {table} (cart_id text PRIMARY KEY, client_id text, items int, total numeric, "
        "status text);",
    )
    project.write(
        "esops.toml",
        f"""
        [stores.shop]
        dsn = {json.dumps(dsn)}
        [projections.cart_summary]
        python = "emmett_projection:cart_summary"
        tables = ["cart_summary"]
        ddl = "carts.sql"
        """,
    )
    return truth


def test_a_blue_green_rebuild_equals_the_truth_and_the_librarys_documents(
    restored, connection, project
):
    connection.execute(
        "CREATE TABLE cart_summary (cart_id text PRIMARY KEY, client_id text, items int, total "
        "numeric, status text)"
    )
    connection.execute(
        "INSERT INTO cart_summary SELECT _id, data->>'clientId', (data->>'items')::int, "
        "(data->>'total')::numeric, data->>'status' "
        "FROM shopping_cart_summary"
    )
    done = project.ok("rebuild", "cart_summary", "--blue-green", "--output", "json").json
    assert done["state"] == "switched"
    assert done["events"] == restored["total_events"]
    assert done["rows"] == len(restored["carts"])
    assert done["verification"]["method"] == "exact"
    assert (done["verification"]["rows_blue"], done["verification"]["rows_green"]) == (60, 60)
    assert done["verification"]["differing"] == 0
    rows = connection.execute(
        "SELECT cart_id, client_id, items, total, status FROM cart_summary"
    ).fetchall()
    assert {
        row[0]: {"clientId": row[1], "items": row[2], "total": int(row[3]), "status": row[4]}
        for row in rows
    } == restored["carts"]
    documents = connection.execute("SELECT _id, data FROM shopping_cart_summary").fetchall()
    assert {
        name: (d["clientId"], d["items"], d["total"], d["status"]) for name, d in documents
    } == {row[0]: (row[1], row[2], int(row[3]), row[4]) for row in rows}
    kinds = connection.execute(
        "SELECT relname, relkind::text FROM pg_class WHERE relname LIKE 'cart_summary%' AND "
        "relkind IN ('r', 'v') ORDER BY 1"
    )
    assert kinds.fetchall() == [
        ("cart_summary", "v"),
        ("cart_summary__v1", "r"),
        ("cart_summary__v2", "r"),
    ]


def test_events_counts_what_the_truth_counts(restored, project):
    lines = project.ok("events").out.splitlines()
    events = [json.loads(line) for line in lines]
    assert len(events) == restored["total_events"]
    kinds: dict[str, int] = {}
    for event in events:
        kinds[event["type"]] = kinds.get(event["type"], 0) + 1
    assert kinds == restored["types"]
    longest = max(restored["streams"], key=restored["streams"].get)
    of_stream = [
        json.loads(line) for line in project.ok("events", "--stream", longest).out.splitlines()
    ]
    assert [event["version"] for event in of_stream] == list(
        range(1, restored["streams"][longest] + 1)
    )
    assert [
        json.loads(x)["id"]
        for x in project.ok("events", "--stream", restored["trace"]["stream"]).out.splitlines()
    ] == restored["trace"]["eventIds"]


def test_the_stopped_processor_is_a_checkpoint(restored, dsn):
    from esops.settings import PostgresSettings
    from esops.stores import open_store

    with open_store("shop", PostgresSettings(dsn=dsn)) as store:
        (shipping,) = store.checkpoints()
        assert (shipping.name, shipping.position[1], shipping.state) == ("shipping", 400, "stopped")
        assert (
            store.counts.between(shipping.position, store.head().position)
            == restored["total_events"] - 400
        )


PONGO = """
from esops import fold

ENDS = {"ShoppingCartConfirmed": "confirmed", "ShoppingCartCancelled": "cancelled"}

@fold(key="stream")
def shopping_cart_summary(row, event):
    data, new = event.json(), dict(row["data"]) if row else {}
    if event.type == "ShoppingCartOpened":
        new = {"clientId": data["clientId"], "items": 0, "total": 0, "status": "open"}
    elif event.type in ENDS:
        new["status"] = ENDS[event.type]
    else:
        sign = 1 if event.type == "ProductItemAdded" else -1
        new["items"] += sign * data["quantity"]
        new["total"] += sign * data["quantity"] * data["unitPrice"]
    return {"_id": event.stream, "data": {**new, "_id": event.stream}}
"""


def test_documents_of_pongo_are_compared_without_what_counts_writes(restored, connection, project):
    project.write("pongo_projection.py", PONGO)
    with (project.folder / "esops.toml").open("a") as file:
        file.write(
            "[projections.shopping_cart_summary]\n"
            'python = "pongo_projection:shopping_cart_summary"\n'
            'tables = ["shopping_cart_summary"]\nlive = "app"\n'
            'checkpoint = "emt:processor:projector:shopping_cart_summary"\nswitch = "rename"\n'
        )
    # An async projection has a row of progress.
    connection.execute(
        "UPDATE emt_processors SET processor_id = 'emt:processor:projector:shopping_cart_summary', "
        "last_processed_checkpoint = (SELECT lpad(max(global_position)::text, 19, '0') FROM "
        "emt_messages)"
    )
    command = ("rebuild", "shopping_cart_summary", "--blue-green", "--no-switch")
    plan = project.ok(*command, "--dry-run").out
    assert "_version, data._version, _created, _updated are not compared" in plan
    done = project.ok(*command, "--output", "json").json
    assert (done["verification"]["rows_blue"], done["verification"]["differing"]) == (60, 0)
    connection.execute(
        "UPDATE shopping_cart_summary SET data = jsonb_set(data, '{items}', '99') WHERE _id = "
        "(SELECT min(_id) FROM shopping_cart_summary)"
    )
    project.ok("projection", "retire", "shopping_cart_summary", "2", "--yes")
    again = project.run(*command, "--output", "json")
    assert again.code == 1
    assert again.json["verification"]["columns"] == {"data": 1}


def test_commands_of_workflows_are_told_from_events(dumps, dsn, connection, project):
    emmett.restore(connection, (dumps / "emmett-0.43.0-beta.39.sql").read_text())
    project.write("esops.toml", f"[stores.shop]\ndsn = {json.dumps(dsn)}\n")
    only = ("--category", "emt:workflow:Receipt:shopping_cart")
    found = project.ok("audit", "streams", *only, "--output", "json").json
    summary = found["summary"]
    assert (summary["streams"], summary["events"], summary["commands"]) == (8, 16, 8)
    assert {(each["length"], each["commands"]) for each in found["streams"]} == {(2, 1)}
    counted = project.ok("audit", "streams", *only, "--count", "--output", "json").json["summary"]
    assert counted == summary
    assert "16 events and 8 commands" in project.ok("audit", "streams", *only).out
    name = found["streams"][0]["stream"]
    one = project.ok("audit", "stream", name, "--output", "json").json
    assert (one["length"], one["commands"]) == (2, 1)
    assert "2 events and 1 command" in project.ok("audit", "stream", name).out
    # A budget is of events.
    with (project.folder / "esops.toml").open("a") as file:
        file.write('[audit.budgets]\n"*" = 2\n')
    assert project.ok("audit", "streams", *only, "--output", "json").json["findings"] == []


@pytest.mark.thorough
def test_a_rollback_needs_no_old_code_where_no_event_came_since(restored, connection, project):
    """A position has the transaction id of the moment, so it advances without an event."""
    project.ok("rebuild", "--blue-green")
    project.write("emmett_projection.py", PROJECTION.replace('"status": "open"', '"status": "new"'))
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    connection.execute("SELECT pg_current_xact_id()")
    project.ok("projection", "rollback", "cart_summary")
    assert connection.execute("SELECT count(*) FROM cart_summary WHERE status = 'open'").fetchone()[
        0
    ]
    project.ok("projection", "switch", "cart_summary", "--to", "2")
    emmett.append(connection, "shopping_cart-new", "ShoppingCartOpened")
    connection.execute(
        "UPDATE emt_messages SET message_data = '{\"clientId\": \"c\"}' WHERE stream_id LIKE '%new'"
    )
    project.ok("run", "--until-caught-up")
    refused = project.run("projection", "rollback", "cart_summary")
    assert (refused.code, "cart_summary.versions.1.python" in refused.err) == (6, True), refused.err
