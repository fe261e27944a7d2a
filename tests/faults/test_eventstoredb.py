"""EventStoreDB going wrong in every way that a test can make it: nothing is lost or doubled, and
what cannot go on says why.
"""

from __future__ import annotations

import json
import threading
import time
import uuid

import pytest
from esdbclient import EventStoreDBClient, NewEvent, StreamState

from esops.errors import Refused
from esops.events import EventFilter, Position
from esops.settings import EventStoreDBSettings, StoreSettings
from esops.stores import open_store
from esops.stores.eventstoredb import bulk
from tests.support import billing
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.esdb_writers import Writers
from tests.support.kills import Kills, unfinished
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE, finish

KILLS = rounds(3, 40)


def settings(uri: str) -> StoreSettings:
    return EventStoreDBSettings(uri=uri)


def new(type: str = "happened") -> NewEvent:
    return NewEvent(type, b"{}", id=uuid.uuid4())


@pytest.mark.slow
def test_a_rebuild_killed_and_resumed_under_live_appends_equals_the_fold(
    tmp_path, project, dsn, connection
):
    """Killed in every state, the node killed and started again in between, writers on all the time."""
    kills, done, node_kills = Kills(connection, 7), 0, 0
    with Nodes("--file", str(tmp_path / "log")) as nodes:
        billing.configure(project, nodes.uri, dsn)
        with Writers(nodes.uri, rounds(1, 2)) as writers:
            while kills.count < KILLS or not done or not node_kills:
                resume = ("--resume",) if unfinished(connection) else ()
                rebuild = project.start("rebuild", "cart_totals", "--blue-green", *resume)
                if kills.count < KILLS and done >= kills.count // 5 and kills.wait(rebuild):
                    if kills.count % 3 == 0:
                        nodes.kill()
                        node_kills += 1
                        kills.now(rebuild)
                        nodes.start()
                    else:
                        kills.now(rebuild)
                    continue
                out, err = finish(rebuild)
                assert rebuild.returncode == 0, out + err
                done += 1
            written = writers.stop()
        project.ok("run", "--until-caught-up")
        truth, events = billing.truth(nodes)
        assert events == written
        versions = project.ok("projection", "show", "cart_totals", "--output", "json").json[
            "versions"
        ]
        assert {version["state"] for version in versions} <= {"active", "standby"}
        for version in versions:
            assert billing.table(connection, f"cart_totals__v{version['version']}") == truth
        assert billing.table(connection, "cart_totals") == truth


def follow_all(nodes_uri: str, stream: str, count: int, disturb) -> list[int]:
    """Follow a store while `disturb` is at work; the numbers of the stream's events in the order
    seen.
    """
    seen: list[int] = []
    with open_store("s", settings(nodes_uri)) as store:
        deadline = time.monotonic() + DEADLINE
        disturber = threading.Thread(target=disturb)
        disturber.start()
        last = None
        for batch in store.follow(
            filter=EventFilter(types=("happened",)),
            stop=lambda: len(seen) >= count or time.monotonic() > deadline,
        ):
            seen.extend(event.version for event in batch.events if event.stream == stream)
            assert last is None or batch.position is None or batch.position >= last
            last = batch.position
        disturber.join()
        # what came after the last batch that was asked for
        return seen


def append_slowly(client, stream: str, first: int, count: int) -> None:
    for number in range(first, first + count):
        client.append_to_stream(
            stream, current_version=StreamState.ANY if number == 0 else number - 1, events=new()
        )
        time.sleep(0.005)


def test_a_follow_goes_on_when_the_node_is_killed_and_started_again(tmp_path):
    with Nodes("--file", str(tmp_path / "log")) as nodes:

        def disturb() -> None:
            for round in range(rounds(2, 3)):
                client = nodes.client()
                append_slowly(client, "s-1", round * 40, 40)
                client.close()
                nodes.kill()
                nodes.start()

        count = 40 * rounds(2, 3)
        assert follow_all(nodes.uri, "s-1", count, disturb) == list(range(count))


@pytest.mark.parametrize(
    "fault",
    thorough_but(["cut", "drop in the middle of a read", "consumer too slow", "busy"], "cut"),
)
def test_a_follow_goes_on_from_its_last_position(fault):
    with Nodes() as nodes:

        def disturb() -> None:
            client = nodes.client()
            for round in range(5):
                append_slowly(client, "s-1", round * 20, 10)
                if fault == "cut":
                    nodes.tell("cut")
                    time.sleep(0.1)
                else:
                    options = {
                        "drop in the middle of a read": "drop_after",
                        "consumer too slow": "too_slow_after",
                        "busy": "busy",
                    }
                    nodes.faults(**{options[fault]: 3})
                append_slowly(client, "s-1", round * 20 + 10, 10)
            nodes.faults()
            client.close()

        assert follow_all(nodes.uri, "s-1", 100, disturb) == list(range(100))


def test_a_follow_goes_to_the_new_leader_when_the_leader_moves_or_dies():
    with Nodes("--nodes", "3") as nodes:

        def disturb() -> None:
            for round, leader_goes in enumerate(
                [lambda: nodes.resign(0), lambda: nodes.tell("die", 1), lambda: None]
            ):
                client = EventStoreDBClient(nodes.uri_of(*([0, 1, 2] if round < 2 else [0, 2])))
                append_slowly(client, "s-1", round * 30, 30)
                client.close()
                leader_goes()

        assert follow_all(nodes.uri_of(0, 1, 2), "s-1", 90, disturb) == list(range(90))


def test_a_position_of_an_old_server_is_safe_to_resume_from(old_node):
    """Servers before 22.10 send a checkpoint where the next event will be: whoever resumes there
    never sees that event.
    """
    rare = EventFilter(types=(f"rare{uuid.uuid4().hex}",))
    client = old_node.client()
    client.append_to_stream(
        f"s-{uuid.uuid4()}", current_version=StreamState.ANY, events=[new(), new()]
    )
    with open_store("s", settings(old_node.uri)) as store:
        link = store._connector.link
        raw = bulk.Messages(
            link,
            bulk.read_all_request(None, filter=bulk.server_filter(rare), subscribe=True),
            "read $all",
        )
        checkpoint = next(
            message.checkpoint
            for message in raw.each()
            if message.WhichOneof("content") == "checkpoint"
        )
        unsafe = Position((checkpoint.commit_position, checkpoint.prepare_position))
        # Followed until it stays where it is: no event of that type ever comes.
        positions: list[Position | None] = []
        rests = lambda: len(positions) > 1 and positions[-2] == positions[-1] is not None  # noqa: E731
        for batch in store.follow(filter=rare, stop=rests):
            positions.append(batch.position)
        assert positions[-1] is not None
        assert positions[-1] < unsafe
        stream = f"s-{uuid.uuid4()}"
        client.append_to_stream(
            stream, current_version=StreamState.ANY, events=[new(rare.types[0])]
        )
        head = store.head().position
        assert head == unsafe, (
            "the test is worth nothing if the event is not where the checkpoint was"
        )

        def resumed(position: Position) -> list[str]:
            return [
                event.stream
                for batch in store.read_all(position, head, rare)
                for event in batch.events
            ]

        assert resumed(unsafe) == []
        assert resumed(positions[-1]) == [stream]
    client.close()


def test_progress_is_kept_where_nothing_matches():
    big = json.dumps({"text": "x" * 100_000}).encode()
    # On a node of its own: others would read all that was written here, too.
    with Nodes() as node, open_store("s", settings(node.uri)) as store:
        client = node.client()
        begin = store.head().position
        for _ in range(rounds(30, 60)):
            client.append_to_stream(
                f"big-{uuid.uuid4()}",
                current_version=StreamState.ANY,
                events=[NewEvent("big", big)],
            )
        for _ in range(rounds(8, 25)):
            client.append_to_stream(
                f"small-{uuid.uuid4()}",
                current_version=StreamState.ANY,
                events=[new() for _ in range(1_000)],
            )
        head = store.head().position
        batches = list(store.read_all(begin, head, EventFilter(types=("never",))))
        assert [batch.events for batch in batches] == [[]] * len(batches)
        assert len(batches) > 2
        assert batches[-1].position == head
        positions = [batch.position for batch in batches]
        assert positions == sorted(set(positions))
        client.close()


def test_a_foreign_position_is_refused(node):
    with open_store("s", settings(node.uri)) as store:
        head = store.head().position
        with pytest.raises(Refused, match="not in this store's log"):
            list(store.read_all(Position((head[0] - 1, head[1] - 1)), head))
        with pytest.raises(ValueError, match="2 parts"):
            list(store.read_all(Position((5,))))


# -- what an operator sees


def configure(project, uri: str) -> None:
    project.write("esops.toml", f'[stores.billing]\nbackend = "eventstoredb"\nuri = "{uri}"\n')


def test_nothing_listens(project):
    configure(project, "esdb://localhost:1?tls=false")
    result = project.run("events")
    assert result.code == 3
    assert "localhost:1 cannot be reached" in result.err
    assert "hint: Check that the node is running" in result.err


def test_no_node_of_a_cluster_answers(project):
    configure(project, "esdb://localhost:1,localhost:2?tls=false&maxDiscoverAttempts=1")
    result = project.run("events")
    assert result.code == 3
    assert "no node of the cluster names its members" in result.err


def test_a_follower_named_alone_says_who_leads_and_serves_who_prefers_followers(project):
    with Nodes("--nodes", "2") as nodes:
        nodes.client().append_to_stream("s-1", current_version=StreamState.ANY, events=new())
        configure(project, nodes.uri_of(1))
        result = project.run("events")
        assert result.code == 3
        assert f"is not the leader; that is localhost:{nodes.ports[0]}" in result.err
        assert "nodePreference=follower" in result.err
        configure(project, nodes.uri_of(0, 1, query="nodePreference=follower"))
        nodes.faults(0, unavailable=True)
        nodes.faults(0)
        assert '"s-1"' in project.ok("events").out
        configure(project, nodes.uri_of(1, query="nodePreference=follower"))
        assert '"s-1"' in project.ok("events").out


def test_a_deadline_that_passes(project):
    with Nodes() as nodes:
        configure(project, nodes.uri_of(0, query="defaultDeadline=1"))
        nodes.faults(hang=True)
        result = project.run("events")
        assert result.code == 3
        assert "in time" in result.err


def test_a_node_that_is_not_ready(project):
    with Nodes() as nodes:
        configure(project, nodes.uri)
        nodes.faults(unavailable=True)
        result = project.run("events")
        assert result.code == 3
        assert "Server Is Not Ready" in result.err


def test_a_bad_uri_names_the_key_and_no_secret(project):
    for uri, said in [
        ("http://user:hidden@host", "does not begin with esdb"),
        ("esdb://host:2113", "cannot be read"),
        ("esdb://user:hidden@host:2113?tlsVerifyCert=false", "tlsVerifyCert"),
        ("esdb://user:hidden@host:2113?tlsCaFile=/no/such.pem", "not a file"),
        ("esdb://user:hidden@host:2113?wrong=1", "cannot be read"),
    ]:
        configure(project, uri)
        result = project.run("events")
        assert result.code == 2, uri
        assert "stores.billing.uri" in result.err
        assert said in result.err
        assert "hidden" not in result.err
        status = project.run("status", "--output", "json")
        assert status.code in (1, 2), uri
        assert "hidden" not in status.out + status.err


def test_an_append_whose_answer_is_lost_is_written_once():
    with Nodes() as nodes, open_store("s", settings(nodes.uri)) as store:
        from esops.errors import ConnectionLost
        from esops.events import NewEvent as Event

        events = [Event(str(uuid.uuid4()), "happened", b"{}")]
        nodes.faults(append_timeout=1)
        with pytest.raises(ConnectionLost) as lost:
            store.append("s-1", events, -1)
        assert "written only once" in lost.value.hint
        store.append("s-1", events, -1)
        assert len(list(store.read_stream("s-1"))) == 1
