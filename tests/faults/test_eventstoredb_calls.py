"""Calls that never end, and a node that is stopped gracefully again and again: whoever waits goes
on.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid

import grpc
import pytest
from esdbclient import NewEvent, StreamState

from esops.errors import ConnectionLost
from esops.events import EventFilter
from esops.settings import EventStoreDBSettings
from esops.stores import open_store
from esops.stores.eventstoredb import calls
from tests.support import billing
from tests.support.esdb import Nodes
from tests.support.soak import rounds
from tests.support.stuck_calls import STICK, Stuck
from tests.support.waiting import DEADLINE, end, until

RESTARTS = rounds(4, 40)


def test_a_call_that_is_over_and_never_says_so_gives_what_it_had_and_is_lost():
    call, got = Stuck([1, 2, 3]), []
    with pytest.raises(ConnectionLost, match="ended the connection"):
        got.extend(iter(_collected(calls.Received(call, "n", 60), got)))
    assert got == [1, 2, 3]
    assert call.cancelled


def _collected(received, got):
    for message in received:
        got.append(message)
    yield from ()


def test_a_call_that_is_silent_is_lost_after_a_while_and_one_that_ends_with_an_error_raises_it():
    with pytest.raises(calls.Silent, match="sent nothing"):
        list(calls.Received(Stuck([], active=True), "n", 0.5))

    class Ends(Stuck):
        def __iter__(self):
            yield 1
            raise grpc.RpcError("no")

    got: list[int] = []
    with pytest.raises(grpc.RpcError, match="no"):
        list(_collected(calls.Received(Ends(), "n", 60), got))
    assert got == [1]
    many = range(1_000)

    class Whole(Stuck):
        def __iter__(self):
            yield from many

    assert list(calls.Received(Whole(), "n", 60)) == list(many)


def test_an_answer_and_a_client_that_never_come_back_are_lost(monkeypatch):
    monkeypatch.setattr(calls, "LATE", 0.2)

    class Never:
        def future(self, request, timeout, **about):
            return self

        def result(self, timeout):
            time.sleep(timeout)
            raise grpc.FutureTimeoutError

        def append(self, *values):
            threading.Event().wait()

        def quick(self, value):
            return value + 1

    with pytest.raises(ConnectionLost, match="did not answer in time"):
        calls.answer(Never(), b"", "n", 0.1)
    client = calls.Bounded(Never(), "n", 0.2)
    for _ in range(3):
        with pytest.raises(ConnectionLost, match="did not answer in time"):
            client.append(1)
        assert client.quick(1) == 2


def more(nodes: Nodes, count: int) -> None:
    client = nodes.client()
    for number in range(count):
        client.append_to_stream(
            f"cart-{number}",
            current_version=StreamState.ANY,
            events=NewEvent("item_added", json.dumps({"amount": number}).encode()),
        )
    client.close()


def test_esops_run_goes_on_after_graceful_restarts_with_calls_that_never_end(
    tmp_path, project, dsn, connection
):
    with Nodes("--file", str(tmp_path / "log")) as nodes:
        billing.configure(project, nodes.uri, dsn)
        more(nodes, 5)
        project.ok("rebuild", "cart_totals", "--blue-green")
        project.patch(STICK)
        run = project.start("run")
        for _ in range(rounds(1, 2)):
            more(nodes, 5)
            until(lambda: billing.table(connection, "cart_totals") == billing.truth(nodes)[0])
            nodes.restart()
            more(nodes, 5)
            until(lambda: billing.table(connection, "cart_totals") == billing.truth(nodes)[0])
        end(run)
        assert run.returncode == 0


@pytest.mark.thorough
def test_reads_and_follows_go_on_through_graceful_restarts(tmp_path):
    with (
        Nodes("--file", str(tmp_path / "log")) as nodes,
        open_store("s", EventStoreDBSettings(uri=nodes.uri)) as store,
    ):
        kind, seen = f"k{uuid.uuid4().hex}", []
        count, deadline = RESTARTS * 20, time.monotonic() + DEADLINE

        def write() -> None:
            for _ in range(RESTARTS):
                client = nodes.client()
                for _ in range(20):
                    client.append_to_stream(
                        "s-1", current_version=StreamState.ANY, events=NewEvent(kind, b"{}")
                    )
                client.close()
                nodes.restart()

        def done() -> bool:
            return len(seen) >= count or time.monotonic() > deadline

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        for batch in store.follow(filter=EventFilter(types=(kind,)), stop=done):
            seen.extend(event.version for event in batch.events)
            with contextlib.suppress(ConnectionLost):  # not up again yet
                store.head()
        writer.join()
        assert seen == list(range(count))
