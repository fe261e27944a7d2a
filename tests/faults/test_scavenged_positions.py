"""A checkpoint whose event a scavenge has removed loses nothing; a checkpoint of another log is
refused.

Servers from 21.10 to 23.10 begin a subscription after the first record at or after its position,
whatever that record is
(shared/facts/eventstoredb.md); the node in tests/ does the same.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from contextlib import closing, suppress

import pytest
from esdbclient import NewEvent, StreamState

from esops.config import load_config
from esops.errors import AnotherLog, Refused
from esops.events import EventFilter, Position
from esops.readmodel import registry
from esops.running.code import code_of
from esops.running.followed_version import SharedRunner
from esops.running.work import Work
from esops.settings import EventStoreDBSettings, StoreSettings
from esops.stores import open_store
from esops.stores.eventstoredb import live
from esops.stores.eventstoredb import store as store_module
from tests.support import billing
from tests.support.cases import thorough_but
from tests.support.esdb import Nodes
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE, until

thorough = pytest.mark.thorough
VERSIONS = [
    # The last one with the fault, and the first one without it.
    "23.10",
    "24.10",
    *thorough_but(("20.10", "21.10")),
]
ROUNDS = rounds(3, 60)
BEHIND = "import esops.stores.eventstoredb.live as live\nlive.BEHIND = 1.0\n"
"""Commands that wait a second for a node that is behind, instead of many."""


def mostly(version: str) -> list:
    """Parameters of `nodes`, of which `make test` has this version only."""
    return thorough_but(("20.10", "21.10", "23.10", "24.10"), version)


@pytest.fixture(params=VERSIONS)
def nodes(request):
    with Nodes("--version", request.param, "--no-system-projections") as nodes:
        yield nodes


def settings(uri: str) -> StoreSettings:
    return EventStoreDBSettings(uri=uri)


def item(amount: int = 1, type: str = "item_added") -> NewEvent:
    return NewEvent(type, json.dumps({"amount": amount}).encode(), id=uuid.uuid4())


def append(nodes, stream: str, *events: NewEvent) -> int:
    client = nodes.client()
    try:
        return client.append_to_stream(
            stream, current_version=StreamState.ANY, events=events or [item()]
        )
    finally:
        client.close()


def scavenge(store) -> None:
    with store.admin.http() as admin:
        id = admin.start_scavenge()
    assert [each.result for each in store.admin.scavenges.watch(id, poll=0.02)][-1] == "Success"


def truncate(nodes, stream: str, before: int) -> None:
    with open_store("s", settings(nodes.uri)) as store:
        store.changes.truncate(stream, before)


def test_run_after_a_scavenge_of_the_event_at_the_checkpoint_applies_the_next(
    nodes, project, dsn, connection
):
    """As it was reported: cart-2 was missing for good, with exit code 0."""
    billing.configure(project, nodes.uri, dsn)
    append(nodes, "cart-1", item(), item(), item(5))
    project.ok("rebuild", "cart_totals", "--blue-green")
    append(nodes, "cart-2", item(7))
    append(nodes, "cart-3", item(8))
    append(nodes, "cart-1", item(9))
    truncate(nodes, "cart-1", 3)
    with open_store("s", settings(nodes.uri)) as store:
        scavenge(store)
    project.ok("run", "cart_totals", "--until-caught-up")
    assert billing.table(connection, "cart_totals") == {
        "cart-1": (4, 16, 3),
        "cart-2": (1, 7, 0),
        "cart-3": (1, 8, 0),
    }


@pytest.mark.parametrize("nodes", mostly("23.10"), indirect=True)
@pytest.mark.parametrize("way", ["follow", "a long read", "a short read"])
def test_reading_on_after_a_scavenge_misses_nothing_and_doubles_nothing(nodes, way, monkeypatch):
    if way == "a long read":
        monkeypatch.setattr(store_module, "_LONG", -1)
        monkeypatch.setattr(live, "SILENCE", 0.5)
    append(nodes, "cart-1", item(1), item(2), item(3))
    with open_store("s", settings(nodes.uri)) as store:
        at = [
            event.position
            for batch in store.read_all(filter=EventFilter(category="cart"))
            for event in batch.events
        ][-1]
        append(nodes, "cart-2", item(4))
        append(nodes, "looked-1", item(0))
        append(nodes, "cart-3", item(5))
        append(nodes, "cart-1", item(6))
        truncate(nodes, "cart-1", 3)
        scavenge(store)
        wanted = EventFilter(category="cart")
        if way == "follow":
            found = []
            for batch in store.follow(at, wanted):
                found += batch.events
                if len(found) >= 3 and not batch.events:
                    break  # another batch, without events: none came twice
        else:
            found = [event for batch in store.read_all(at, None, wanted) for event in batch.events]
    assert [(event.stream, event.json()["amount"]) for event in found] == [
        ("cart-2", 4),
        ("cart-3", 5),
        ("cart-1", 6),
    ]


def test_a_scavenge_between_the_look_and_the_subscription_is_noticed(monkeypatch):
    """The record after which a subscription begins goes in the very moment between."""
    with (
        Nodes("--version", "23.10", "--no-system-projections") as nodes,
        open_store("s", settings(nodes.uri)) as store,
    ):
        append(nodes, "cart-1", item(1), item(2))
        at = [
            event.position
            for batch in store.read_all(filter=EventFilter(category="cart"))
            for event in batch.events
        ][-1]
        append(nodes, "cart-2", item(3))
        append(nodes, "cart-1", item(4))
        real, looks = live.bulk.record_at, []

        def look(link, position):
            found = real(link, position)
            looks.append(found)
            if len(looks) == 1:
                truncate(nodes, "cart-1", 2)
                scavenge(store)
            return found

        monkeypatch.setattr(live.bulk, "record_at", look)
        found = []
        for batch in store.follow(at, EventFilter(category="cart")):
            found += batch.events
            if len(found) >= 2:
                break
        assert [(event.stream, event.json()["amount"]) for event in found] == [
            ("cart-2", 3),
            ("cart-1", 4),
        ]
        assert len(looks) > 2


@pytest.mark.slow
@thorough
def test_random_scavenges_truncations_and_restarts_under_live_appends(
    tmp_path, project, dsn, connection
):
    """With every way of going on, against a fold by the client alone."""
    chance = random.Random(11)
    with Nodes(
        "--version", "23.10", "--no-system-projections", "--file", str(tmp_path / "log")
    ) as nodes:
        billing.configure(project, nodes.uri, dsn)
        append(nodes, "cart-0", item())
        project.ok("rebuild", "cart_totals", "--blue-green")
        totals: dict[str, list[int]] = {"cart-0": [1, 1, 0]}
        versions = {"cart-0": 0}
        followed: list[tuple[str, int]] = []
        expected: list[tuple[str, int]] = []
        place = None
        for number in range(ROUNDS):
            for _ in range(chance.randrange(1, 5)):
                stream, amount = f"cart-{chance.randrange(6)}", chance.randrange(100)
                append(nodes, stream, item(amount))
                versions[stream] = versions.get(stream, -1) + 1
                row = totals.setdefault(stream, [0, 0, 0])
                row[:] = [row[0] + 1, row[1] + amount, versions[stream]]
                expected.append((stream, versions[stream]))
            append(nodes, "$stats-here", NewEvent("$statsCollected", b"{}"))
            with open_store("s", settings(nodes.uri)) as store:
                if (
                    chance.random() < 0.5
                ):  # what follows is removed only after it was read, as an operator would
                    stop = threading.Event()
                    timer = threading.Timer(DEADLINE, stop.set)
                    timer.start()
                    for batch in store.follow(place, EventFilter(types=billing.TYPES), stop.is_set):
                        followed += [(event.stream, event.version) for event in batch.events]
                        place = batch.position
                        if followed and followed[-1] == expected[-1]:
                            break
                    timer.cancel()
                else:
                    for batch in store.read_all(place, None, EventFilter(types=billing.TYPES)):
                        followed += [(event.stream, event.version) for event in batch.events]
                        place = batch.position
                assert [each for each in followed if each != ("cart-0", 0)] == expected, (
                    f"round {number}"
                )
            done = project.run(
                *(
                    ("run", "cart_totals", "--until-caught-up")
                    if chance.random() < 0.8
                    else ("rebuild", "cart_totals", "--blue-green", "--resume")
                )
            )
            assert done.code == 0, done.err
            project.ok("run", "cart_totals", "--until-caught-up")
            assert billing.table(connection, "cart_totals") == {
                stream: tuple(row) for stream, row in totals.items()
            }, f"round {number}"
            # now the position at which all stand may go
            with open_store("s", settings(nodes.uri)) as store:
                append(nodes, "$stats-here", NewEvent("$statsCollected", b"{}"))
                for stream in chance.sample(sorted(versions), k=min(3, len(versions))):
                    append(nodes, stream, NewEvent("looked_at", b"{}"))
                    versions[stream] += 1
                    store.changes.set_metadata(stream, {"$tb": versions[stream]}, None)
                store.changes.set_metadata("$stats-here", {"$maxCount": 1}, None)
                if chance.random() < 0.7:
                    scavenge(store)
            if chance.random() < 0.1:
                nodes.stop()
                nodes.start()


# -- another log


def fill(nodes, streams: int, each: int = 2, first: int = 0) -> None:
    for number in range(first, first + streams):
        append(nodes, f"cart-{number}", *(item(n) for n in range(each)))


@pytest.mark.parametrize("longer", [False, True], ids=["a shorter log", "a longer log"])
def test_a_store_that_was_replaced_is_refused(longer, project, dsn):
    project.patch(BEHIND)
    with Nodes("--no-system-projections") as nodes, Nodes("--no-system-projections") as other:
        billing.configure(project, nodes.uri, dsn)
        fill(nodes, 6)
        project.ok("rebuild", "cart_totals", "--blue-green")
        fill(other, 20 if longer else 2, first=1)
        billing.configure(project, other.uri, dsn)
        for command in (("run", "cart_totals", "--until-caught-up"),):
            done = project.run(*command)
            assert done.code == 6, done
            assert "is not the log that the checkpoint was taken in" in done.err


@pytest.mark.parametrize(
    ("grown", "scavenged"),
    [
        pytest.param(True, True, id="grown past it, scavenged"),
        pytest.param(True, False, id="grown past it", marks=thorough),
        pytest.param(False, True, id="shorter than the checkpoint, scavenged", marks=thorough),
        pytest.param(False, False, id="shorter than the checkpoint", marks=thorough),
    ],
)
def test_a_store_restored_to_an_earlier_time_is_refused_and_recovered_by_a_rebuild(
    grown, scavenged, tmp_path, project, dsn, connection
):
    log = tmp_path / "log"
    project.patch(BEHIND)
    with Nodes("--no-system-projections", "--file", str(log)) as nodes:
        billing.configure(project, nodes.uri, dsn)
        fill(nodes, 5)
        backup = log.read_bytes()
        fill(nodes, 3, first=5)
        project.ok("rebuild", "cart_totals", "--blue-green")
        nodes.stop()
        log.write_bytes(backup)
        nodes.start()
        if grown:
            fill(nodes, 12, each=3, first=7)
            # the stream of the event at the checkpoint is there again, and truncated beyond it
            truncate(nodes, "cart-7", 2)
        if scavenged:
            with open_store("s", settings(nodes.uri)) as store:
                scavenge(store)
        done = project.run("run", "cart_totals", "--until-caught-up")
        assert done.code == 6, done
        assert "is not the log that the checkpoint was taken in" in done.err
        recovered = project.run("projection", "recover", "cart_totals", "--yes")
        assert (recovered.code, "it is given up" in recovered.out) == (1, True), recovered
        project.ok(
            "rebuild", "cart_totals", "--blue-green", "--compare", "none", "--accept-shortened"
        )
        project.ok("run", "cart_totals", "--until-caught-up")
        with open_store("s", settings(nodes.uri)) as store:
            truth = {event.stream for batch in store.read_all() for event in batch.events}
    rows = connection.execute("SELECT count(*) FROM cart_totals").fetchone()
    assert rows == (len(truth),)


def test_a_node_restored_while_a_host_runs_is_refused(tmp_path, project, dsn):
    log = tmp_path / "log"
    with (
        Nodes("--no-system-projections", "--file", str(log)) as nodes,
        open_store("s", settings(nodes.uri)) as store,
    ):
        fill(nodes, 3)
        backup = log.read_bytes()
        fill(nodes, 3, first=3)
        head = store.head().position
        assert store.identity.mark(head) is not None
        assert list(store.read_all(head)) == []
        nodes.stop()
        log.write_bytes(backup)
        nodes.start()
        fill(nodes, 9, first=6)
        now = eventually_head(store)
        assert now > head
        with pytest.raises(Refused, match="is not the log"):
            list(store.read_all(head, now))


def test_a_version_notices_that_its_node_was_restored_where_it_shares_the_store(
    tmp_path, project, dsn, connection
):
    """The store itself keeps in mind the last mark only, which is another version's."""
    log, name = tmp_path / "log", "cart_totals"
    with (
        Nodes("--no-system-projections", "--file", str(log)) as nodes,
        open_store("s", settings(nodes.uri)) as store,
    ):
        billing.configure(project, nodes.uri, dsn)
        fill(nodes, 3)
        project.ok("rebuild", name, "--blue-green")
        backup = log.read_bytes()
        config = load_config(project.folder / "esops.toml")
        definition, _ = code_of(config, registry.version(connection, name, 1))
        work = Work.on(name, 1, definition, config.projection(name))
        with closing(SharedRunner(store, dsn, work)) as runner:
            fill(nodes, 3, first=3)
            assert runner.advance(store.head().position)
            fill(nodes, 3, first=6)
            assert store.identity.mark(store.head().position) is not None
            nodes.stop()
            log.write_bytes(backup)
            nodes.start()
            fill(nodes, 20, first=9)
            now = eventually_head(store)
            with pytest.raises(AnotherLog, match=f"^{name} v1 "):
                runner.advance(now)


def eventually_head(store) -> Position:
    def head() -> Position | None:
        with suppress(Exception):
            return store.head().position

    return until(head)


@pytest.mark.parametrize("nodes", mostly("24.10"), indirect=True)
@pytest.mark.parametrize(
    "how", ["truncated", "max count", "deleted", "deleted and written again", "tombstoned"]
)
def test_whatever_lets_a_scavenge_remove_the_event_at_a_checkpoint_is_no_other_log(how, nodes):
    fill(nodes, 2)
    append(nodes, "doomed-1", item(), item())
    with open_store("s", settings(nodes.uri)) as store:
        head = store.head().position
        mark = store.identity.mark(head)
        assert mark["stream"] == "doomed-1"
        if how == "truncated":
            append(nodes, "doomed-1", item())
            store.changes.truncate("doomed-1", 2)
        elif how == "max count":
            store.changes.set_metadata("doomed-1", {"$maxCount": 1}, None)
            append(nodes, "doomed-1", item())
        elif how == "deleted":
            store.changes.delete("doomed-1")
        elif how == "deleted and written again":
            store.changes.delete("doomed-1")
            append(nodes, "doomed-1", item())
        else:
            store.changes.tombstone("doomed-1")
        append(nodes, "cart-9", item())
        scavenge(store)
        store.identity.recognise(head, mark)
        found = [event.stream for batch in store.read_all(head) for event in batch.events]
        assert found[-1] == "cart-9"


@pytest.mark.parametrize("nodes", mostly("24.10"), indirect=True)
def test_following_from_a_position_beyond_the_end_is_refused(nodes, monkeypatch):
    monkeypatch.setattr(live, "BEHIND", 0.5)
    with open_store("s", settings(nodes.uri)) as store:
        fill(nodes, 1)
        head = store.head().position
        beyond = Position((head[0] + 10_000, head[1] + 10_000))
        with pytest.raises(Refused, match="ends before position"):
            for _ in store.follow(beyond):
                pass
