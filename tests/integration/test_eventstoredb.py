"""The store over EventStoreDB: what a stream is, what the server keeps beside events, its
administration, TLS and rights.
"""

from __future__ import annotations

import json
import threading
import uuid
from datetime import timedelta

import pytest

from esops.errors import Busy, ConnectionLost, Refused, Unavailable, UsageError
from esops.events import EventFilter, NewEvent
from esops.settings import EventStoreDBSettings, StoreSettings
from esops.stores import open_store
from esops.stores.base import WrongExpectedVersion
from esops.stores.eventstoredb.errors import StreamGone
from tests.support import billing
from tests.support.esdb import Nodes
from tests.support.waiting import DEADLINE, finish, until


def settings(uri: str) -> StoreSettings:
    return EventStoreDBSettings(uri=uri)


def event(type: str = "happened", data: bytes = b"{}", metadata: bytes = b"{}") -> NewEvent:
    return NewEvent(str(uuid.uuid4()), type, data, metadata)


@pytest.fixture
def store(node):
    with open_store("billing", settings(node.uri)) as store:
        yield store


@pytest.fixture
def stream():
    return f"cart-{uuid.uuid4()}"


# -- streams


def test_a_stream_is_told_with_its_settings_as_it_is_truncated_deleted_and_tombstoned(
    store, stream
):
    assert store.stream_info(stream) is None
    store.append(stream, [event() for _ in range(5)], -1)
    store.changes.set_metadata(stream, {"$maxCount": 4, "mine": 1})
    info = store.stream_info(stream)
    assert (info.length, info.first_version, info.last_version, info.deleted) == (4, 1, 4, "")
    store.changes.truncate(stream, 3)
    info = store.stream_info(stream)
    assert (info.length, info.first_version, info.settings) == (
        2,
        3,
        {"$maxCount": 4, "mine": 1, "$tb": 3},
    )
    with pytest.raises(Refused, match="already truncated before 3"):
        store.changes.truncate(stream, 2)
    store.changes.delete(stream, 4)
    assert store.stream_info(stream).deleted == "soft"
    assert list(store.read_stream(stream)) == []
    with pytest.raises(WrongExpectedVersion, match="was deleted, .* an existing stream"):
        store.append(stream, [event()], -4)
    store.append(stream, [event("again")], -1)
    assert until(lambda: [(e.type, e.version) for e in store.read_stream(stream)]) == [("again", 5)]
    store.changes.tombstone(stream)
    assert store.stream_info(stream).deleted == "tombstone"
    assert list(store.read_stream(stream)) == []
    with pytest.raises(StreamGone, match="never be used again"):
        store.append(stream, [event()])
    with pytest.raises(Refused, match="there is no stream"):
        store.changes.delete(f"{stream}-not")


def test_expectations(store, stream):
    with pytest.raises(WrongExpectedVersion, match="does not exist, .* an existing stream"):
        store.append(stream, [event()], -4)
    store.append(stream, [event()], -1)
    store.append(stream, [event()], -4)
    with pytest.raises(WrongExpectedVersion, match="is at version 1, .* version 0"):
        store.append(stream, [event()], 0)
    with pytest.raises(WrongExpectedVersion, match="is at version 1, .* a new stream"):
        store.append(stream, [event()], -1)
    with pytest.raises(Refused, match="larger than the server accepts"):
        store.append(stream, [event(data=b'"' + b"x" * 1_100_000 + b'"')])


def test_the_systems_events_are_out_of_sight_unless_they_are_named(store):
    begin = store.head().position
    stream = f"c{uuid.uuid4().hex}-1"
    store.append(stream, [event()])
    store.changes.set_metadata(stream, {"$maxCount": 9})
    until(lambda: list(store.read_stream(f"$ce-{stream[:-2]}")))

    def types(**filter) -> set[str]:
        return {
            e.type
            for batch in store.read_all(begin, filter=EventFilter(**filter))
            for e in batch.events
        }

    assert types() == {"happened"}
    assert types(types=("$metadata",)) == {"$metadata"}
    assert "$>" in types(category="$ce")


def test_a_link_whose_event_is_gone_is_passed_over(store):
    category = f"c{uuid.uuid4().hex}"
    names = [f"{category}-{n}" for n in range(3)]
    for name in names:
        store.append(name, [event()])
    until(lambda: len(list(store.read_stream(f"$ce-{category}"))) == 3)
    store.changes.tombstone(names[1])
    assert [e.stream for e in store.read_stream(f"$ce-{category}")] == [names[0], names[2]]


def test_one_streams_events_come_from_the_stream_and_what_was_cut_off_only_when_asked_for(
    store, stream
):
    store.append(stream, [event(f"t{n}") for n in range(4)])
    store.changes.truncate(stream, 2)

    def types(**filter) -> list[str]:
        return [
            e.type
            for batch in store.read_all(filter=EventFilter(stream=stream, **filter))
            for e in batch.events
        ]

    assert types() == ["t2", "t3"]
    assert types(archived=True) == ["t0", "t1", "t2", "t3"]
    assert types(types=("t3",)) == ["t3"]


def test_streams_and_correlations_are_found_by_the_system_projections_or_by_a_scan(store, old_node):
    category, correlation = f"c{uuid.uuid4().hex}", str(uuid.uuid4())
    about = json.dumps({"$correlationId": correlation}).encode()
    with open_store("old", settings(old_node.uri)) as scanned:
        for each, way in ((store, "$streams:"), (scanned, "a scan of $all")):
            for n in range(3):
                each.append(f"{category}-{n}", [event(f"t{n}", metadata=about), event("other")])
            mine = EventFilter(category=category)
            until(lambda each=each, mine=mine: len(list(each.streams(mine))) == 3)
            until(lambda each=each, way=way: each.listing.source().startswith(way))
            assert [(s.name, s.length) for s in each.streams(mine)] == [
                (f"{category}-{n}", 2) for n in range(3)
            ]
            found = until(
                lambda each=each: [
                    e.type for e in each.search.find(correlation_id=correlation).events
                ]
            )
            assert sorted(found) == ["t0", "t1", "t2"]
        until(
            lambda: (
                store.search.find(correlation_id=correlation).how == f"the stream $bc-{correlation}"
            )
        )
        assert scanned.search.find(correlation_id=correlation).how.startswith(
            "a scan of $all, about "
        )


# -- what the server keeps beside events


def test_persistent_subscriptions_are_listed_and_what_is_parked_is_replayed(node, store, stream):
    client = node.client()
    group = f"g{uuid.uuid4().hex}"
    client.create_subscription_to_stream(group, stream)
    store.append(stream, [event("good"), event("bad")])
    subscription = client.read_subscription_to_stream(group, stream, timeout=DEADLINE)
    for message in subscription:
        subscription.nack(message, "park") if message.type == "bad" else subscription.ack(message)
        if message.type == "bad":
            break
    info = until(lambda: (one := store.admin.subscriptions.info(stream, group)).parked == 1 and one)
    assert (info.consumers, info.strategy, info.status) == (1, "DispatchToSingle", "Live")
    assert store.admin.subscriptions.oldest_parked(stream, group) is not None
    assert [e.type for e in store.admin.subscriptions.parked(stream, group)] == ["bad"]
    assert group in [one.name for one in store.admin.subscriptions.all()]
    assert f"{stream}::{group}" in [one.name for one in store.checkpoints()]
    store.admin.subscriptions.replay(stream, group)
    assert next(subscription).type == "bad"
    until(lambda: store.admin.subscriptions.info(stream, group).parked == 0)
    subscription.stop()
    client.delete_subscription(group, stream)
    client.close()
    with pytest.raises(UsageError, match="no persistent subscription"):
        store.admin.subscriptions.info(stream, group)
    with pytest.raises(UsageError, match="no persistent subscription"):
        store.admin.subscriptions.replay(stream, group)


def test_a_reader_of_followers_asks_the_leader_for_what_only_that_knows():
    with (
        Nodes("--nodes", "2") as nodes,
        open_store("s", settings(nodes.uri_of(0, 1, query="nodePreference=follower"))) as store,
    ):
        assert store.ping().detail["state"] == "follower"
        client = nodes.client()
        client.create_subscription_to_all("g")
        assert [group.name for group in store.admin.subscriptions.all()] == ["g"]
        assert store.admin.subscriptions.info("$all", "g").parked == 0
        client.close()


def test_server_projections(store, stream):
    name = f"p{uuid.uuid4().hex}"
    query = (
        f"fromStream('{stream}').when({{$init: () => ({{n: 0}}), happened: (s, e) => "
        f"{{ s.n++; "
        f"}}}}).outputState()"
    )
    store.append(stream, [event(), event()])
    store.admin.projections.create(name, query, emit=False, track=False)
    with pytest.raises(Refused, match="already"):
        store.admin.projections.create(name, query, emit=False, track=False)
    until(lambda: store.admin.projections.state(name) == {"n": 2.0})
    assert store.admin.projections.result(name) == {"n": 2.0}
    found = until(
        lambda: (one := store.admin.projections.get(name)) and one.progress == 100 and one
    )
    assert (found.status, found.mode, found.running, found.faulted) == (
        "Running",
        "Continuous",
        True,
        False,
    )
    assert name in [one.name for one in store.admin.projections.all()]
    with pytest.raises(Refused, match="Disable it first|cannot be deleted"):
        store.admin.projections.delete(name, emitted_streams=False)
    store.admin.projections.disable(name)
    assert not store.admin.projections.get(name).running
    store.admin.projections.reset(name)
    store.admin.projections.enable(name)
    until(lambda: store.admin.projections.state(name) == {"n": 2.0})
    store.admin.projections.disable(name)
    store.admin.projections.delete(name, emitted_streams=False)
    assert store.admin.projections.get(name) is None
    for ask in (
        store.admin.projections.state,
        store.admin.projections.enable,
        store.admin.projections.disable,
        store.admin.projections.reset,
    ):
        with pytest.raises(UsageError, match="no projection"):
            ask(name)


def test_a_projection_that_is_not_there_on_an_old_server(old_node):
    with open_store("old", settings(old_node.uri)) as store:
        assert store.admin.projections.get("nothing") is None
        with pytest.raises(UsageError, match="no projection"):
            store.admin.projections.state("nothing")
        with pytest.raises(UsageError, match="no projection"):
            store.admin.projections.enable("nothing")


# -- administration


def test_a_scavenge_is_started_watched_stopped_and_remembered():
    with Nodes() as nodes, open_store("s", settings(nodes.uri)) as store:
        store.append("cart-1", [event() for _ in range(6)])
        store.changes.truncate("cart-1", 4)
        with store.admin.http() as admin:
            assert admin.current_scavenge() is None
            nodes.tell("scavenge-takes", body="0.5")
            first = admin.start_scavenge(throttle_percent=50)
            assert admin.current_scavenge() == first
            with pytest.raises(Busy, match="already running"):
                admin.start_scavenge()
            states = list(store.admin.scavenges.watch(first, poll=0.05))
            assert next(state.result for state in states) == "InProgress"
            assert states[-1].result == "Success"
            assert states[-1].saved > 0
            nodes.tell("scavenge-takes", body="30")
            second = admin.start_scavenge()
            threading.Timer(0.3, admin.stop_scavenge).start()
            assert list(store.admin.scavenges.watch(second, poll=0.05))[-1].result == "Stopped"
            with pytest.raises(UsageError, match="no scavenge"):
                admin.stop_scavenge()
            with pytest.raises(UsageError, match="one thread"):
                admin.start_scavenge(threads=4, throttle_percent=20)
            assert [one.id for one in store.admin.scavenges.history()] == [second, first]
            assert admin.info().version == "24.10.0.0"
            assert admin.gossip()[0]["state"] == "Leader"
            assert "es" in admin.stats()
        assert [e.version for batch in store.read_all() for e in batch.events] == [4, 5]


def test_an_old_server_cannot_tell_which_scavenge_runs(old_node):
    with (
        open_store("old", settings(old_node.uri)) as store,
        store.admin.http() as admin,
        pytest.raises(Refused, match="too old"),
    ):
        admin.current_scavenge()


# -- TLS and rights


def test_tls_with_a_ca_file_user_and_password(secure):
    nodes, _ = secure
    with open_store("s", settings(nodes.uri)) as store:
        store.append("cart-1", [event()], None)
        assert [e.stream for batch in store.read_all() for e in batch.events] == ["cart-1"]
        assert store.ping().version == "24.10.0.0"
        with store.admin.http() as admin:
            admin.start_scavenge()


def test_a_wrong_password_a_wrong_ca_and_missing_rights_say_what_they_are(secure, project):
    nodes, folder = secure

    def run(uri: str, *arguments: str):
        project.write("esops.toml", f'[stores.billing]\nbackend = "eventstoredb"\nuri = "{uri}"\n')
        result = project.run("events", *arguments)
        assert "changeit" not in result.err
        assert "secret" not in result.err
        return result

    with open_store("s", settings(nodes.uri)) as store:
        store.append("cart-9", [event()])
    wrong = run(nodes.uri.replace("changeit", "wrong"))
    assert (wrong.code, "denies the login" in wrong.err) == (3, True)
    stranger = run(nodes.uri.replace("ca.pem", "other.pem"))
    assert stranger.code == 3
    assert "certificate" in stranger.err
    assert len(stranger.err.splitlines()) == 2, "gRPC says nothing of its own"
    plain = run(f"esdb://localhost:{nodes.ports[0]}?tls=false")
    assert (plain.code, "speaks TLS" in plain.err, "tls=true" in plain.err) == (3, True, True)
    with Nodes() as insecure:
        told = run(f"esdb://admin:changeit@localhost:{insecure.ports[0]}?tls=true")
        assert (told.code, "does not speak TLS" in told.err) == (3, True), told
    assert "tlsCaFile" in stranger.err
    reader = nodes.uri.replace("admin:changeit", "reader:secret")
    denied = run(reader)
    assert denied.code == 3
    assert "does not allow this user to read $all" in denied.err
    assert "hint: Only admins may read $all" in denied.err
    own = run(reader, "--stream", "cart-9")
    assert (own.code, own.out.count('"cart-9"')) == (0, 1), own
    again = run(reader, "--stream", "cart-9", "--after", json.loads(own.out)["position"])
    assert (again.code, again.out) == (0, ""), again
    with open_store("s", settings(reader)) as store:
        assert [e.type for e in store.read_stream("cart-9")] == ["happened"]
        assert store.admin.unlisted(timedelta(seconds=5)) == "", "who may not read it knows nothing"
        with (
            store.admin.http() as admin,
            pytest.raises(Unavailable, match="does not allow this user to start a scavenge"),
        ):
            admin.start_scavenge()


@pytest.mark.thorough
def test_a_stream_that_may_not_be_read_is_told_and_the_others_are_audited(secure, project):
    nodes, _ = secure
    with open_store("s", settings(nodes.uri)) as store:
        for number in range(3):
            store.append(f"private-{number}", [event()])
        store.changes.set_metadata("private-1", {"$acl": {"$r": ["$admins"]}})
        for name in ("$all", "$streams"):
            store.changes.set_metadata(name, {"$acl": {"$r": ["readers", "$admins"]}})
        until(lambda: "private-2" in {e.stream for e in store.read_stream("$streams")})
    reader = nodes.uri.replace("admin:changeit", "reader:secret")
    project.write("esops.toml", f'[stores.billing]\nbackend = "eventstoredb"\nuri = "{reader}"\n')
    only = ("audit", "streams", "--category", "private", "--output")
    for options in ((), ("--count",)):
        audit = project.run(*only, "json", *options)
        assert audit.code == 1, audit
        assert (audit.json["summary"]["streams"], audit.json["denied"]) == (2, ["private-1"])
        assert "private-1" in audit.err
    every = project.run(*only, "ndjson", "--all")
    assert every.code == 1
    assert [json.loads(line)["stream"] for line in every.out.splitlines()] == [
        "private-0",
        "private-2",
    ]
    with open_store("s", settings(nodes.uri)) as store:
        for name in ("$all", "$streams"):
            store.changes.set_metadata(name, {})


def test_http_without_a_node_is_a_lost_connection():
    with Nodes() as nodes, open_store("s", settings(nodes.uri)) as store:
        http = store.admin.http()
        nodes.stop()
        with http, pytest.raises(ConnectionLost, match="cannot be reached over HTTP"):
            http.info()


# -- the commands


def test_a_read_model_is_rebuilt_followed_and_switched(project, dsn, connection):
    with Nodes() as nodes, open_store("s", settings(nodes.uri)) as store:
        billing.configure(project, nodes.uri, dsn)
        for n in range(10):
            store.append(
                f"cart-{n}",
                [event("item_added", json.dumps({"amount": n}).encode()), event("looked_at")],
                -1,
            )
        plan = project.ok("rebuild", "cart_totals", "--blue-green", "--dry-run")
        assert "store billing: about " in plan.out
        done = project.ok("rebuild", "cart_totals", "--blue-green", "--output", "json").json
        assert (done["events"], done["rows"], done["state"]) == (10, 10, "switched")
        assert billing.table(connection, "cart_totals") == billing.truth(nodes)[0]
        run = project.start("run")
        store.append("cart-7", [event("item_removed", b'{"amount": 3}')])
        until(lambda: billing.table(connection, "cart_totals") == billing.truth(nodes)[0])
        again = project.ok("rebuild", "cart_totals", "--blue-green", "--output", "json").json
        assert again["verification"]["differing"] == 0
        run.terminate()
        assert run.wait(timeout=DEADLINE) == 0
        run.communicate()
        project.ok("projection", "rollback", "cart_totals")
        shown = project.ok("projection", "show", "cart_totals", "--output", "json").json
        assert shown["active"] == 1


def test_events_by_stream_type_and_follow(project, node, store, stream):
    project.write("esops.toml", f'[stores.billing]\nbackend = "eventstoredb"\nuri = "{node.uri}"\n')
    position = store.append(stream, [event("opened"), event("closed")])
    lines = project.ok("events", "--stream", stream).out.splitlines()
    assert [(json.loads(line)["type"], json.loads(line)["version"]) for line in lines] == [
        ("opened", 0),
        ("closed", 1),
    ]
    assert json.loads(lines[1])["position"] == str(position)
    kind = f"k{uuid.uuid4().hex}"
    follower = project.start(
        "events", "--follow", "--type", kind, "--limit", "2", "--after", str(position)
    )
    for _ in range(2):
        store.append(stream, [event(kind)])
    out, err = finish(follower)
    assert follower.returncode == 0, err
    assert [json.loads(line)["type"] for line in out.splitlines()] == [kind, kind]
    wrong = project.run("events", "--after", "12")
    assert wrong.code == 2
    assert "2 parts" in wrong.err
