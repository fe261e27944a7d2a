"""What a scavenge leaves of streams, and what rebuilds, reads and archives take it for."""

from __future__ import annotations

import json
import sys

import pytest
from esdbclient import NewEvent as Raw
from esdbclient import StreamState

from esops.events import EventFilter
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from esops.stores.eventstoredb import scavenged
from tests.support import billing
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes

ANY = StreamState.ANY
REBUILD = ("rebuild", "cart_totals", "--blue-green", "--output", "json")
SOFT, BEYOND = "deleted softly", "truncated beyond its end"


@pytest.fixture
def nodes():
    with Nodes() as nodes:
        yield nodes


def fill(nodes: Nodes, carts: int = 3, events: int = 5) -> None:
    client = nodes.client()
    types = ("item_added", "item_removed", "looked_at")
    for cart in range(carts):
        client.append_to_stream(
            f"cart-{cart}",
            current_version=ANY,
            events=[
                Raw(types[n % 3], json.dumps({"amount": n + cart}).encode()) for n in range(events)
            ],
        )
    client.close()


def empty(client, how: str, stream: str = "cart-1") -> None:
    """Let clients read nothing of a stream."""
    if how == SOFT:
        client.delete_stream(stream, current_version=ANY)
    elif how == BEYOND:
        client.set_stream_metadata(stream, metadata={"$tb": 50}, current_version=ANY)
    else:
        client.set_stream_metadata(stream, metadata={"$maxAge": 0}, current_version=ANY)


def scavenge(nodes: Nodes) -> None:
    with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        assert [seen.result for seen in store.admin.scavenge()][-1] == "Success"


def without(rows: dict, *streams: str) -> dict:
    return {key: row for key, row in rows.items() if key not in streams}


def asked_in_each_way(project, events: list[dict]) -> None:
    """Each way to ask for the events gives these ten."""
    newest = [json.loads(line) for line in project.ok("events", "--reverse").out.splitlines()]
    assert newest == events[::-1]
    last = project.ok("events", "--last", "3", "--since", "1h").out.splitlines()
    assert list(map(json.loads, last)) == events[-3:]
    of_type = project.ok("events", "--type", "item_removed", "--last", "1").out
    assert json.loads(of_type) == [each for each in events if each["type"] == "item_removed"][-1]
    followed = project.ok("events", "--follow", "--since", "1h", "--limit", "10").out.splitlines()
    assert [json.loads(line) for line in followed] == events
    some = [
        json.loads(line)
        for line in project.ok("events", "--category", "cart").out.split("\n")
        if line
    ]
    assert len(some) == len(events) == 10


@pytest.mark.parametrize(
    "how",
    thorough_but([SOFT, BEYOND, "too old"], SOFT, "too old"),
)
def test_the_event_that_a_scavenge_leaves_of_a_stream_without_any_is_no_event(
    nodes, project, dsn, connection, how
):
    billing.configure(project, nodes.uri, dsn)
    fill(nodes)
    whole, _ = billing.truth(nodes)
    empty(nodes.client(), how)
    before = project.ok(*REBUILD).json
    assert billing.table(connection, "cart_totals") == whole, "$all has all of it until a scavenge"
    scavenge(nodes)
    left = billing.truth(nodes)[0]
    assert left["cart-1"] != whole["cart-1"], "the node has kept the last event"
    done = project.ok(*REBUILD, "--max-diff", "1").json
    assert (before["rows"], done["rows"]) == (3, 2)
    assert billing.table(connection, "cart_totals") == without(whole, "cart-1")
    events = [json.loads(line) for line in project.ok("events").out.splitlines()]
    assert {each["stream"] for each in events} == {"cart-0", "cart-2"}
    asked_in_each_way(project, events)
    assert (
        project.ok("audit", "streams", "--count", "--output", "json").json["summary"]
        == (project.ok("audit", "streams", "--output", "json").json["summary"])
    )
    codes = {each["code"] for each in project.run("doctor", "--output", "json").json["findings"]}
    assert "ESOPS-D077" not in codes


def test_what_comes_after_a_scavenged_end_counts(nodes, project, dsn, connection):
    billing.configure(project, nodes.uri, dsn)
    fill(nodes)
    client = nodes.client()
    empty(client, SOFT)
    scavenge(nodes)
    again = [Raw("item_added", b'{"amount": 70}')]
    client.append_to_stream("cart-1", current_version=ANY, events=again)
    # The stream begins at version 5 for everybody, and 4 is still in $all.
    refused = project.run(*REBUILD)
    assert (refused.code, "lost the 5 events before it" in refused.err) == (6, True), refused
    project.ok(*REBUILD, "--accept-shortened")
    assert billing.table(connection, "cart_totals")["cart-1"] == (1, 70, 5)
    with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        versions = [
            event.version
            for batch in store.read_all(filter=EventFilter(types=("item_added",)))
            for event in batch.events
            if event.stream == "cart-1"
        ]
        assert versions == [5]


def test_streams_that_are_cut_off_and_not_scavenged_are_whole_in_all(
    nodes, project, dsn, connection
):
    billing.configure(project, nodes.uri, dsn)
    fill(nodes, 6)
    client = nodes.client()
    client.set_stream_metadata("cart-1", metadata={"$tb": 3}, current_version=ANY)
    client.set_stream_metadata("cart-2", metadata={"$maxCount": 2}, current_version=ANY)
    for stream in ("cart-3", "cart-4"):
        client.delete_stream(stream, current_version=ANY)
    client.tombstone_stream("cart-5", current_version=ANY)
    client.append_to_stream(
        "cart-3", current_version=ANY, events=[Raw("item_added", b'{"amount": 7}')]
    )
    done = project.ok(*REBUILD).json
    assert done["state"] == "switched"
    assert billing.table(connection, "cart_totals") == billing.truth(nodes)[0]
    codes = {each["code"] for each in project.run("doctor", "--output", "json").json["findings"]}
    assert "ESOPS-D077" not in codes
    archive = """
[archives.cold]
repository = "cold"

[archives.cold.policies.old]
store = "billing"
category = "cart"
never_younger_than = "0s"
"""
    billing.configure(project, nodes.uri, dsn, archive)
    plan = project.ok("archive", "plan", "old", "--output", "json").json
    assert plan["no_archive"] is None, "nothing was archived before"
    billing.configure(project, nodes.uri, dsn)
    scavenge(nodes)
    refused = project.run(*REBUILD)
    assert (refused.code, "2 streams begin with 'item_added'" in refused.err) == (6, True), refused
    assert "lost the 8 events before it" in refused.err


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["truncated", SOFT])
def test_a_scavenge_during_a_rebuild_is_noticed_before_the_switch(
    nodes, project, dsn, connection, what
):
    hook = project.folder / "hook.py"
    cut = "changes.delete('cart-1')" if what == SOFT else "changes.truncate('cart-1', 3)"
    hook.write_text(
        "import faulthandler, os\n"
        "from esops.settings import EventStoreDBSettings\n"
        "from esops.stores import open_store\n"
        # It has hung once: where it does again, it says where.
        "faulthandler.dump_traceback_later(100, exit=True)\n"
        f"with open_store('s', EventStoreDBSettings(uri={nodes.uri!r})) as store:\n"
        f"    store.{cut}\n"
        "    list(store.admin.scavenge())\n"
        # Not by way of what gRPC does at the end of a process.
        "    os._exit(0)\n"
    )
    billing.configure(
        project, nodes.uri, dsn, f"hooks.before_switch = {json.dumps([sys.executable, str(hook)])}"
    )
    fill(nodes)
    whole, _ = billing.truth(nodes)
    refused = project.run(*REBUILD)
    assert refused.code == 6, refused
    assert "'cart-1'" in refused.err
    assert "if it did not read them before" in refused.err
    # It did.
    hook.write_text("")
    project.ok("rebuild", "cart_totals", "--blue-green", "--resume", "--accept-shortened")
    assert billing.table(connection, "cart_totals") == whole


@pytest.mark.parametrize("most", thorough_but([0, 200], 0))
def test_links_and_the_systems_types_in_a_stream_are_no_gap(
    nodes, project, dsn, connection, monkeypatch, most
):
    billing.configure(project, nodes.uri, dsn)
    fill(nodes)
    client = nodes.client()
    client.append_to_stream(
        "cart-1",
        current_version=ANY,
        events=[
            Raw("$>", b"0@cart-0", content_type="application/octet-stream"),
            Raw("$own", b"{}"),
            Raw("item_added", b'{"amount": 9}'),
        ],
    )
    client.set_stream_metadata("cart-1", metadata={"$tb": 6}, current_version=ANY)
    monkeypatch.setattr(scavenged, "_NAMED", most)
    with open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store:
        assert list(store.losses.late_beginnings()) == []
    project.ok(*REBUILD)
    assert billing.table(connection, "cart_totals") == billing.truth(nodes)[0]
    assert billing.table(connection, "cart_totals")["cart-1"][2] == 7
