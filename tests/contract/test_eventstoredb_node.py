"""The checklist of what a node does, point by point, with esdbclient as any application uses it.

Run on the node in tests/, so that what esops is tested on is right, and on a real one where
ESOPS_TEST_ESDB_URI names it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from uuid import uuid4

import grpc
import httpx
import pytest
from esdbclient import (
    CaughtUp,
    Checkpoint,
    EventStoreDBClient,
    NewEvent,
    RecordedEvent,
    StreamState,
)
from esdbclient import exceptions as esdb
from esdbclient.connection_spec import ConnectionSpec
from esdbclient.protos.Grpc import projections_pb2, projections_pb2_grpc

from tests.support.esdb import Nodes
from tests.support.waiting import DEADLINE

ANY, NO_STREAM, EXISTS = StreamState.ANY, StreamState.NO_STREAM, StreamState.EXISTS


@pytest.fixture(params=["node in tests/", "real node"])
def uri(request, node) -> str:
    if request.param == "node in tests/":
        return node.uri
    real = os.environ.get("ESOPS_TEST_ESDB_URI")
    if not real:
        pytest.skip("ESOPS_TEST_ESDB_URI names no real node")
    return real


@pytest.fixture
def client(uri):
    client = EventStoreDBClient(uri)
    yield client
    client.close()


@pytest.fixture
def stream():
    return f"checklist{uuid4().hex}-{uuid4()}"


def new(
    type: str = "happened", data: bytes = b'{"n": 1}', metadata: bytes = b"", id=None
) -> NewEvent:
    return NewEvent(type, data, metadata, id=id or uuid4())


def revisions(events) -> list[int]:
    return [event.stream_position for event in events]


def eventually(ask, patience: float = DEADLINE):
    deadline = time.monotonic() + patience
    while True:
        with contextlib.suppress(esdb.NotFound):
            found = ask()
            if found:
                return found
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def http(uri: str, method: str, path: str, accept: str = "application/json") -> httpx.Response:
    spec = ConnectionSpec(uri)
    scheme = "https" if spec.options.Tls else "http"
    user = (spec.username, spec.password) if spec.username else None
    verify = spec.options.TlsCaFile or True
    return httpx.request(
        method,
        f"{scheme}://{spec.targets[0]}{path}",
        auth=user,
        verify=verify,
        trust_env=False,
        headers={"Accept": accept},
    )


def test_01_connect_directly_and_by_discovery_gossip_and_server_features(uri, client):
    members = client.read_gossip()
    assert [member.state for member in members].count("NODE_STATE_LEADER") == 1
    spec = ConnectionSpec(uri)
    target = spec.targets[0]
    with EventStoreDBClient(uri.replace(target, f"{target},{target}", 1)) as discovered:
        assert discovered.get_commit_position() >= 0
    if spec.options.Tls:
        pytest.skip("asked in clear below")
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary(
            "/event_store.client.server_features.ServerFeatures/GetSupportedMethods"
        )
        answer = ask(b"")
    assert re.search(rb"\d+\.\d+\.\d+", answer)
    assert b"event_store.client.streams.streams" in answer
    assert b"batchappend" in answer


def test_02_append_with_each_expectation_right_and_wrong(client, stream):
    with pytest.raises(esdb.WrongCurrentVersion, match="does not exist"):
        client.append_to_stream(stream, current_version=EXISTS, events=[new()])
    with pytest.raises(esdb.WrongCurrentVersion, match="does not exist"):
        client.append_to_stream(stream, current_version=3, events=[new()])
    first = client.append_to_stream(stream, current_version=NO_STREAM, events=[new(), new()])
    with pytest.raises(esdb.WrongCurrentVersion, match="is 1 not"):
        client.append_to_stream(stream, current_version=NO_STREAM, events=[new()])
    with pytest.raises(esdb.WrongCurrentVersion, match="is 1 not 0"):
        client.append_to_stream(stream, current_version=0, events=[new()])
    second = client.append_to_stream(stream, current_version=1, events=new())
    third = client.append_to_stream(stream, current_version=EXISTS, events=[new()])
    fourth = client.append_to_stream(stream, current_version=ANY, events=[new()])
    assert first < second < third < fourth
    assert revisions(client.get_stream(stream)) == [0, 1, 2, 3, 4]


def test_03_the_same_append_again_is_written_once_a_part_of_it_is_refused(client, stream):
    events = [new(), new(), new()]
    position = client.append_to_stream(stream, current_version=NO_STREAM, events=events)
    assert client.append_to_stream(stream, current_version=NO_STREAM, events=events) == position
    assert client.append_to_stream(stream, current_version=0, events=events[1:]) == position
    assert client.append_to_stream(stream, current_version=ANY, events=events) == position
    with pytest.raises(esdb.WrongCurrentVersion):
        client.append_to_stream(stream, current_version=NO_STREAM, events=[events[0], new()])
    assert len(client.get_stream(stream)) == 3


def test_04_read_a_stream_both_ways_from_a_revision_with_a_limit(client, stream):
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new() for _ in range(5)])
    assert revisions(client.get_stream(stream, stream_position=2)) == [2, 3, 4]
    assert revisions(client.get_stream(stream, backwards=True)) == [4, 3, 2, 1, 0]
    assert revisions(client.get_stream(stream, stream_position=2, backwards=True)) == [2, 1, 0]
    assert revisions(client.get_stream(stream, limit=2)) == [0, 1]
    assert revisions(client.get_stream(stream, backwards=True, limit=2)) == [4, 3]
    assert revisions(client.get_stream(stream, stream_position=9)) == []
    with pytest.raises(esdb.NotFound):
        client.get_stream(f"{stream}-not")
    client.delete_stream(stream, current_version=ANY)
    with pytest.raises(esdb.NotFound):
        client.get_stream(stream)
    client.tombstone_stream(stream, current_version=ANY)
    with pytest.raises(esdb.StreamIsDeleted):
        client.get_stream(stream)
    with pytest.raises(esdb.StreamIsDeleted):
        client.append_to_stream(stream, current_version=ANY, events=[new()])


def test_05_truncation_hides_events_from_the_stream_and_not_from_all(client, stream):
    before = client.get_commit_position(filter_exclude=())
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new() for _ in range(6)])

    def set(**metadata) -> None:
        client.set_stream_metadata(stream, metadata=metadata, current_version=ANY)

    set(**{"$tb": 2})
    assert revisions(client.get_stream(stream)) == [2, 3, 4, 5]
    set(**{"$maxCount": 3})
    assert revisions(client.get_stream(stream)) == [3, 4, 5]
    set(**{"$maxCount": 3, "$tb": 5})
    assert revisions(client.get_stream(stream)) == [5]
    set(**{"$maxAge": 1})
    time.sleep(2.1)
    assert revisions(client.get_stream(stream)) == []
    set(**{"$maxAge": 3600, "mine": "kept"})
    assert len(client.get_stream(stream)) == 6
    assert client.get_stream_metadata(stream)[0]["mine"] == "kept"
    found = [e for e in client.read_all(commit_position=before) if e.stream_name == stream]
    assert revisions(found) == [0, 1, 2, 3, 4, 5]


def test_06_a_deleted_stream_comes_back_and_its_revisions_go_on(client, stream):
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new(), new()])
    with pytest.raises(esdb.WrongCurrentVersion):
        client.delete_stream(stream, current_version=7)
    client.delete_stream(stream, current_version=1)
    with pytest.raises(esdb.StreamIsDeleted):
        client.append_to_stream(stream, current_version=EXISTS, events=[new()])
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new()])
    eventually(lambda: revisions(client.get_stream(stream)) == [2])
    assert client.get_stream_metadata(stream)[0]["$tb"] == 2


def test_07_all_both_ways_from_a_position_filtered_in_the_server(client, stream):
    before = client.get_commit_position(filter_exclude=())
    types = ["opened", "opened2", "closed"] * 3
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new(type) for type in types])

    def read(**options) -> list[RecordedEvent]:
        return [
            e for e in client.read_all(commit_position=before, **options) if e.stream_name == stream
        ]

    forwards = read()
    positions = [e.commit_position for e in forwards]
    assert positions == sorted(set(positions))
    assert [e.type for e in forwards] == types
    assert len(read(filter_include=["opened"])) == 3
    assert len(read(filter_include=["opened.*"])) == 6
    assert len(read(filter_exclude=["opened"])) == 6
    assert len(read(filter_include=[re.escape(stream)], filter_by_stream_name=True)) == 9
    assert read(filter_exclude=[re.escape(stream)], filter_by_stream_name=True) == []
    fourth = positions[3]
    assert next(iter(client.read_all(commit_position=fourth, limit=1))).commit_position == fourth
    backwards = [
        e
        for e in client.read_all(commit_position=fourth, backwards=True, limit=50)
        if e.stream_name == stream
    ]
    assert [e.commit_position for e in backwards] == positions[2::-1]
    # in the chunk that is being written
    with pytest.raises(esdb.UnknownError, match="Unexpected FilteredReadAllResult: Error"):
        list(client.read_all(commit_position=fourth + 1, limit=1))
    with pytest.raises(esdb.UnknownError, match="Unexpected FilteredReadAllResult: Error"):
        list(client.read_all(commit_position=fourth + 1, limit=1, backwards=True))


def test_07_beyond_the_end_a_read_forwards_is_empty_and_one_backwards_fails(client, stream):
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new()])
    beyond = client.get_commit_position(filter_exclude=()) + 10_000_000
    assert list(client.read_all(commit_position=beyond, limit=1)) == []
    with pytest.raises(esdb.UnknownError, match="Unexpected FilteredReadAllResult: Error"):
        list(client.read_all(commit_position=beyond, limit=1, backwards=True))


def test_08_subscriptions_from_start_end_and_position_with_checkpoints_and_caught_up(
    client, stream
):
    before = client.get_commit_position(filter_exclude=())
    client.append_to_stream(
        stream, current_version=NO_STREAM, events=[new(f"t{n}") for n in range(3)]
    )

    def take(subscription, count: int) -> list:
        with subscription:
            return list(itertools.islice(subscription, count))

    assert revisions(take(client.subscribe_to_stream(stream, timeout=DEADLINE), 3)) == [0, 1, 2]
    assert revisions(
        take(client.subscribe_to_stream(stream, stream_position=0, timeout=DEADLINE), 2)
    ) == [1, 2]
    caught_up = take(
        client.subscribe_to_stream(stream, include_caught_up=True, timeout=DEADLINE), 4
    )
    assert isinstance(caught_up[-1], CaughtUp)
    live = client.subscribe_to_stream(stream, from_end=True, timeout=DEADLINE)
    client.append_to_stream(stream, current_version=2, events=[new("live")])
    assert [e.type for e in take(live, 1)] == ["live"]
    everything = client.subscribe_to_all(
        commit_position=before,
        filter_include=[stream],
        filter_by_stream_name=True,
        timeout=DEADLINE,
    )
    assert [e.type for e in take(everything, 4)] == ["t0", "t1", "t2", "live"]
    for n in range(40):
        client.append_to_stream(f"{stream}-{n}", current_version=ANY, events=[new("other")])
    rare = client.subscribe_to_all(
        commit_position=before,
        filter_include=["never-happens"],
        include_checkpoints=True,
        include_caught_up=True,
        window_size=5,
        checkpoint_interval_multiplier=2,
        timeout=DEADLINE,
    )
    found = take(rare, 3)
    assert isinstance(found[0], Checkpoint)
    assert before < found[0].commit_position < found[1].commit_position
    ended = client.subscribe_to_all(from_end=True)
    ended.stop()
    assert list(ended) == []


def test_09_links_of_the_system_projections_resolved_and_dangling(client, stream):
    if client.get_projection_statistics(name="$by_category").status != "Running":
        pytest.skip("the system's projections do not run on this node")
    category, correlation = stream.partition("-")[0], str(uuid4())
    about = json.dumps({"$correlationId": correlation}).encode()
    kind = f"type{uuid4().hex}"
    client.append_to_stream(
        stream,
        current_version=NO_STREAM,
        events=[new(kind, metadata=about), new("other", metadata=about)],
    )
    linked = eventually(lambda: client.get_stream(f"$ce-{category}", resolve_links=True))
    linked = eventually(
        lambda: (
            len(client.get_stream(f"$ce-{category}")) == 2
            and client.get_stream(f"$ce-{category}", resolve_links=True)
        )
    )
    assert [(e.stream_name, e.type, e.link.type) for e in linked] == [
        (stream, kind, "$>"),
        (stream, "other", "$>"),
    ]
    raw = client.get_stream(f"$ce-{category}")
    assert [e.data for e in raw] == [f"0@{stream}".encode(), f"1@{stream}".encode()]
    assert [
        e.type for e in eventually(lambda: client.get_stream(f"$et-{kind}", resolve_links=True))
    ] == [kind]
    by_correlation = eventually(
        lambda: (
            len(client.get_stream(f"$bc-{correlation}")) == 2
            and client.get_stream(f"$bc-{correlation}", resolve_links=True)
        )
    )
    assert [e.type for e in by_correlation] == [kind, "other"]
    names = eventually(
        lambda: [e.data.decode() for e in client.get_stream("$streams", backwards=True, limit=200)]
    )
    assert f"0@{stream}" in names
    client.delete_stream(stream, current_version=ANY)
    eventually(lambda: len(client.get_stream(f"$ce-{category}")) == 3)
    left = client.get_stream(f"$ce-{category}", resolve_links=True)
    assert [(e.stream_name, e.type) for e in left] == [(f"$${stream}", "$metadata")]


def test_10_persistent_subscriptions_created_listed_parked_and_replayed(client, stream):
    group = f"group-{uuid4().hex}"
    client.append_to_stream(
        stream, current_version=NO_STREAM, events=[new(f"t{n}") for n in range(3)]
    )
    client.create_subscription_to_stream(group, stream)
    with pytest.raises(esdb.AlreadyExists):
        client.create_subscription_to_stream(group, stream)
    assert group in [info.group_name for info in client.list_subscriptions()]
    subscription = client.read_subscription_to_stream(group, stream, timeout=DEADLINE)
    for event in subscription:
        subscription.nack(event, "park") if event.type == "t1" else subscription.ack(event)
        if event.type == "t2":
            break
    eventually(lambda: client.get_subscription_info(group, stream).parked_message_count == 1)
    parked = client.get_stream(
        f"$persistentsubscription-{stream}::{group}-parked", resolve_links=True
    )
    assert [e.type for e in parked] == ["t1"]
    client.replay_parked_events(group, stream)
    again = next(subscription)
    assert again.type == "t1"
    subscription.ack(again)
    eventually(lambda: client.get_subscription_info(group, stream).parked_message_count == 0)
    subscription.stop()
    client.delete_subscription(group, stream)
    with pytest.raises(esdb.NotFound):
        client.get_subscription_info(group, stream)


def test_11_projections_created_asked_reset_and_deleted(client, stream):
    name = f"p{uuid4().hex}"
    query = (
        f"fromStream('{stream}').when({{$init: function () {{ return {{n: 0}}; }}, happened: "
        f"function (s, e) {{ s.n += e.data.n; }}}}).outputState()"
    )
    client.create_projection(query=query, name=name)
    with pytest.raises(esdb.AlreadyExists):
        client.create_projection(query=query, name=name)
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new(), new(), new("other")])
    eventually(lambda: client.get_projection_state(name=name).value.get("n") == 2)
    assert client.get_projection_statistics(name=name).status == "Running"
    eventually(lambda: client.get_projection_statistics(name=name).progress == 100)
    with pytest.raises(esdb.OperationFailed):
        client.delete_projection(name)
    client.disable_projection(name)
    eventually(lambda: "Stopped" in client.get_projection_statistics(name=name).status)
    client.reset_projection(name)
    client.enable_projection(name)
    eventually(lambda: client.get_projection_state(name=name).value.get("n") == 2)
    client.disable_projection(name)
    eventually(lambda: "Stopped" in client.get_projection_statistics(name=name).status)
    client.delete_projection(name)
    time.sleep(0.5)
    with pytest.raises(esdb.NotFound):
        client.get_projection_statistics(name=name)


def test_12_a_scavenge_over_http_takes_dead_events_out_of_all_and_reports(uri, client, stream):
    if "localhost" not in uri:
        pytest.skip("a real node scavenges no chunk that is still being written")
    before = client.get_commit_position(filter_exclude=())
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new() for _ in range(4)])
    client.set_stream_metadata(stream, metadata={"$tb": 3}, current_version=ANY)
    started = http(uri, "POST", "/admin/scavenge?threads=1&throttlePercent=50")
    assert started.status_code == 200
    id = started.json()["scavengeId"]
    eventually(
        lambda: any(e.type == "$scavengeCompleted" for e in client.get_stream(f"$scavenges-{id}"))
    )
    events = client.get_stream(f"$scavenges-{id}")
    assert [e.type for e in events] == [
        "$scavengeStarted",
        "$scavengeChunksCompleted",
        "$scavengeCompleted",
    ]
    assert json.loads(events[-1].data)["result"] == "Success"
    assert id in [
        json.loads(e.data)["scavengeId"]
        for e in client.get_stream("$scavenges", resolve_links=True)
    ]
    left = [e for e in client.read_all(commit_position=before) if e.stream_name == stream]
    assert revisions(left) == [3]
    assert http(uri, "GET", "/admin/scavenge/last").json()["scavengeResult"] == "Success"
    assert http(uri, "POST", "/admin/scavenge?threads=2&throttlePercent=50").status_code == 400
    assert http(uri, "DELETE", f"/admin/scavenge/{uuid4()}").status_code == 404
    assert http(uri, "GET", "/health/live").status_code == 204
    assert http(uri, "GET", "/gossip").json()["members"][0]["state"] == "Leader"


def test_13_a_follower_says_who_leads_a_node_dies_and_deadlines_pass():
    with Nodes("--nodes", "2") as nodes:
        follower = EventStoreDBClient(nodes.uri_of(1))
        with pytest.raises(esdb.NodeIsNotLeader) as refused:
            follower.append_to_stream("s", current_version=ANY, events=[new()])
        assert refused.value.leader_grpc_target == f"localhost:{nodes.ports[0]}"
        follower.close()
        reader = EventStoreDBClient(nodes.uri_of(0, 1, query="NodePreference=follower"))
        assert reader.connection_target == f"localhost:{nodes.ports[1]}"
        reader.close()
        client = EventStoreDBClient(nodes.uri_of(0, 1))
        client.append_to_stream("s", current_version=ANY, events=[new() for _ in range(500)])
        nodes.faults(0, hang=True)
        with pytest.raises(esdb.DeadlineExceeded):
            list(client.read_all(timeout=0.3))
        nodes.faults(0, slow=0.01)
        reading = client.read_all()
        next(reading)
        nodes.tell("die", 0)
        with pytest.raises(esdb.ServiceUnavailable):
            list(reading)
        assert len(client.get_stream("s")) == 500
        client.append_to_stream("s", current_version=499, events=[new()])
        client.close()


def test_14_an_append_over_one_mebibyte_is_refused(client, stream):
    half = new(data=b'"' + b"x" * (600 * 1024) + b'"')
    client.append_to_stream(stream, current_version=NO_STREAM, events=[half])
    with pytest.raises(esdb.MaximumAppendSizeExceededError, match="1048576"):
        client.append_to_stream(
            stream, current_version=ANY, events=[new(data=half.data), new(data=half.data)]
        )
    assert len(client.get_stream(stream)) == 1


def test_15_what_a_real_node_showed(uri, client, stream):
    category = f"c{uuid4().hex}"
    names = [f"{category}-{n}" for n in range(3)]
    client.create_projection(
        query=f"fromCategory('{category}').when({{happened: (s, e) => s}})", name=category
    )
    for name in names:
        client.append_to_stream(name, current_version=NO_STREAM, events=[new("happened")])
    eventually(lambda: len(client.get_stream(f"$ce-{category}")) == 3)
    eventually(
        lambda: client.get_projection_statistics(name=category).position == f"$ce-{category}: 2"
    )
    client.disable_projection(category)
    client.delete_projection(category)
    client.delete_stream(names[0], current_version=0)
    links = eventually(
        lambda: len(found := client.get_stream(f"$ce-{category}")) == 4 and [e.data for e in found]
    )
    assert links[-1] == f"0@$${names[0]}".encode(), "to the metadata event"
    before = client.get_commit_position(filter_exclude=())
    assert (
        http(uri, "POST", "/admin/scavenge", accept="")
        .headers["content-type"]
        .startswith("text/plain")
    )
    client.append_to_stream(stream, current_version=NO_STREAM, events=[new()])
    chunk = 256 * 1024 * 1024
    assert client.get_commit_position(filter_exclude=()) // chunk > before // chunk


def test_15_a_follower_knows_nothing_of_projections_and_an_older_node_of_the_last_scavenge():
    with Nodes("--nodes", "2", "--version", "23.10") as nodes:
        request = projections_pb2.StatisticsReq()
        request.options.name = "$streams"
        with grpc.insecure_channel(f"localhost:{nodes.ports[1]}") as channel:
            stub = projections_pb2_grpc.ProjectionsStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                list(stub.Statistics(request, timeout=0.5))
            assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert http(nodes.uri, "GET", "/admin/scavenge/last").status_code == 405
