"""Which streams a node has: what its own list lacks, what nobody may read, and who knows what."""

from __future__ import annotations

import time
import uuid

import pytest
from esdbclient import NewEvent as Raw
from esdbclient import StreamState

from esops.errors import Unavailable
from esops.events import NewEvent
from esops.settings import EventStoreDBSettings, StoreSettings
from esops.stores import open_store
from esops.stores.eventstoredb.server_projections import ServerProjections
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.waiting import until


def settings(uri: str) -> StoreSettings:
    return EventStoreDBSettings(uri=uri)


def event(type: str = "happened", data: bytes = b"{}", metadata: bytes = b"{}") -> NewEvent:
    return NewEvent(str(uuid.uuid4()), type, data, metadata)


def configure(project, uri: str, more: str = "") -> None:
    project.write(
        "esops.toml", f'[stores.billing]\nbackend = "eventstoredb"\nuri = "{uri}"\n{more}'
    )


def scavenge(store) -> None:
    assert [seen.result for seen in store.admin.scavenge()][-1] == "Success"


@pytest.fixture
def nodes():
    """A node of its own, with no projection running."""
    with Nodes("--no-system-projections") as nodes:
        yield nodes


def enable_streams(store, last: str) -> None:
    store.admin.projections.enable("$streams")
    until(lambda: last in {e.stream for e in store.read_stream("$streams")})
    until(lambda: store.admin.projections.runs("$streams"))


POLICY = """
[archives.cold]
repository = "archive"

[archives.cold.policies.old]
store = "billing"
category = "cart"
never_younger_than = "0s"
"""


@pytest.mark.parametrize("why", thorough_but(["scavenged before", "no JSON"], "no JSON"))
def test_streams_that_the_servers_own_list_lacks_are_found_and_told(nodes, project, why):
    configure(project, nodes.uri)
    with open_store("billing", settings(nodes.uri)) as store:
        if why == "scavenged before":
            for name in ("cart-1", "cart-2"):
                store.append(name, [event(), event(), event()])
            store.changes.truncate("cart-1", 2)
            scavenge(store)
            store.append("cart-3", [event()])
        else:
            store.append("cart-2", [event(), event(), event()])
            # esdbclient writes what is said to be JSON without a look at it.
            nodes.client().append_to_stream(
                "cart-1", current_version=StreamState.ANY, events=Raw("t", b"not {json")
            )
            store.append("cart-3", [event()])
        enable_streams(store, "cart-3")
        assert "cart-1" not in {e.stream for e in store.read_stream("$streams")}
        assert [info.name for info in store.streams()] == ["cart-1", "cart-2", "cart-3"]
    for options in ((), ("--count",)):
        audit = project.ok("audit", "streams", "--output", "json", *options)
        assert audit.json["summary"]["streams"] == 3
        assert audit.json["counted_from"].startswith("a scan of $all")
        assert ("lacks 1 of 3 streams" in audit.json["counted_from"]) == (not options)
    found = {
        each["code"]: each for each in project.run("doctor", "--output", "json").json["findings"]
    }
    assert "such as cart-1" in found["ESOPS-D087"]["message"]


def _no_projections(self, name):
    raise Unavailable("UNIMPLEMENTED")


@pytest.mark.thorough
def test_a_list_that_lacks_nothing_is_used(nodes, project, monkeypatch):
    configure(project, nodes.uri)
    with open_store("billing", settings(nodes.uri)) as store:
        for number in range(5):
            store.append(f"cart-{number}", [event(), event()])
        store.changes.delete("cart-0", 1)
        store.changes.truncate("cart-1", 1)
        enable_streams(store, "cart-4")
        scavenge(store)
        store.append("cart-5", [event()])
        until(lambda: "cart-5" in {e.stream for e in store.read_stream("$streams")})
        assert [info.name for info in store.streams()] == [f"cart-{n}" for n in range(1, 6)]
        assert store.listing.source().startswith("$streams")
        with monkeypatch.context() as patched:
            # A node without projections answers UNIMPLEMENTED.
            patched.setattr(ServerProjections, "get", _no_projections)
            assert [info.name for info in store.streams()] == [f"cart-{n}" for n in range(1, 6)]
            assert store.listing.source().startswith("a scan of $all")
    audit = project.ok("audit", "streams", "--output", "json").json
    assert (audit["summary"]["streams"], audit["counted_from"][:8]) == (5, "$streams")
    counted = project.ok("audit", "streams", "--count", "--output", "json").json
    assert (counted["summary"], counted["counted_from"][:6]) == (audit["summary"], "a scan")
    doctor = project.run("doctor", "--output", "json").json
    assert "ESOPS-D087" not in {each["code"] for each in doctor["findings"]}


# -- clusters


def all_of(uri: str) -> list[int]:
    with open_store("s", settings(uri)) as store:
        return [e.version for batch in store.read_all() for e in batch.events]


SCAVENGING = POLICY + 'remove = "truncate"\nscavenge = true\n'


def test_a_run_scavenges_each_node_of_a_cluster_and_says_which_were_not(project):
    with Nodes("--nodes", "3") as nodes:
        configure(project, nodes.uri_of(0, 1, 2), SCAVENGING)
        with open_store("s", settings(nodes.uri_of(0, 1, 2))) as store:
            store.append("cart-1", [event() for _ in range(5)])
            assert "on each node" in project.ok("archive", "plan", "old").out
            done = project.ok("archive", "run", "old", "--output", "json").json
            assert (done["state"], len(done["scavenge"].split(", "))) == ("done", 3)
            of = [
                e.json()["nodeEndpoint"]
                for e in store.read_stream("$scavenges")
                if e.type == "$scavengeStarted"
            ]
            assert sorted(of) == [f"localhost:{port}" for port in sorted(nodes.ports)]
            assert of[-1] == f"localhost:{nodes.ports[0]}", "the leader is the last"
            for number in range(3):
                query = "nodePreference=follower" if number else ""
                assert all_of(nodes.uri_of(number, query=query)) == [4]
            store.append("cart-1", [event() for _ in range(5)])
            nodes.tell("die", 2)
            failed = project.run("archive", "run", "old")
            assert failed.code not in (0, 1)
            assert f"localhost:{nodes.ports[2]}: it is down" in failed.err
            assert all_of(nodes.uri_of(0, 1)) == [9]


def test_who_prefers_followers_asks_the_leader_for_what_only_it_knows_and_reads_from_followers(
    project,
):
    with Nodes("--nodes", "3") as nodes:
        uri = nodes.uri_of(0, 1, 2, query="nodePreference=follower&defaultDeadline=60")
        with open_store("s", settings(uri)) as store:
            until(lambda: store.admin.projections.runs("$by_category"))  # it has just begun
            began = time.monotonic()
            assert "$streams" in {one.name for one in store.admin.projections.all()}
            assert store.admin.projections.runs("$by_category")
            assert store.admin.subscriptions.all() == []
            assert store.ping().detail["state"] == "follower", "its reads stay where they were"
            nodes.resign(0)
            assert store.admin.projections.get("$streams") is not None
            assert time.monotonic() - began < 60, "nothing waited for a deadline"
        configure(project, nodes.uri_of(1, 2, query="nodePreference=follower"))
        project.ok("status")


# -- how many events


@pytest.mark.thorough
def test_what_cannot_be_counted_is_a_range_that_holds_the_truth(nodes, monkeypatch):
    from esops.stores.eventstoredb import estimates as module

    monkeypatch.setattr(module, "_FEW", 100)
    with open_store("billing", settings(nodes.uri)) as store:
        # Many small events, then a few large ones: the newest say nothing about the others.
        for number in range(10):
            store.append(f"small-{number}", [event() for _ in range(100)])
        for number in range(10):
            store.append(f"large-{number}", [event(data=b'"' + b"x" * 4_000 + b'"')] * 1)
        truth = 1_010
        head = store.head().position
        low, high = store.counts.bounds(None, head)
        assert low < truth <= high
        assert low <= store.counts.between(None, head) <= high
        assert store.counts.bounds(None, None) == (0, 0)
    with open_store("billing", settings(nodes.uri)) as store:
        monkeypatch.setattr(module, "_FEW", 10_000)
        assert store.counts.bounds(None, head) == (truth, truth)
