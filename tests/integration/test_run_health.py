"""`esops run --health`: alive while its loop turns, ready while it does its work."""

from __future__ import annotations

import errno
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import psycopg
import pytest

from esops.config import load_config
from esops.health import probes
from tests.support import shop
from tests.support.waiting import DEADLINE, end, until

OLD = "UPDATE esops.versions SET updated_at = now() - interval '5 minutes'"
WAITING = "SELECT max(seq_id) > (SELECT position::int FROM esops.versions) FROM shop.mt_events"


def ask(address: str, path: str) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def listening(process) -> str:
    """Where it answers, from what it says first."""
    for line in process.stderr:
        if found := re.search(r"http://(\S+)/livez", line):
            return found[1]
    raise AssertionError("it did not say where it listens")


@pytest.fixture
def carts(own_server, project):
    dsn = own_server.dsn()
    shop.make(dsn, 60)
    shop.configure(project, dsn, store_options='append = "quick"\nsettle_timeout = "300ms"')
    project.ok("rebuild", "--blue-green")
    project.patch(
        "import esops.health.probes as probes\n"
        "probes.LOOK_EVERY = probes.LOOK_SOON = probes._STALLS_EVERY = 0.1\n"
    )
    return project


def test_it_is_ready_while_its_versions_are_fresh_and_says_what_keeps_them_from_it(
    carts, own_server
):
    dsn = own_server.dsn()
    process = carts.start("run", "--health", "0")
    try:
        address = listening(process)
        until(lambda: ask(address, "/readyz")[0] == 200)
        (version,) = ask(address, "/readyz")[1]["projections"]
        assert (version["version"], version["lag_events"], version["wrong"]) == (1, 0, [])
        assert version["caught_up"]
        assert version["position"] == "60"

        own_server.stop("immediate")
        until(lambda: ask(address, "/readyz")[0] == 503)
        code, told = ask(address, "/readyz")
        assert "cannot be reached" in told["projections"][0]["wrong"][0]
        assert ask(address, "/livez")[0] == 200  # a new process would not bring the database back
        own_server.start()
        until(lambda: ask(address, "/readyz")[0] == 200)

        # A pause is no fault, until events have waited for a minute.
        carts.ok("projection", "pause", "cart_summary")
        until(lambda: ask(address, "/readyz")[1]["projections"][0]["paused"])
        assert ask(address, "/readyz")[0] == 200
        with psycopg.connect(dsn, autocommit=True) as connection:

            def stalls() -> bool:
                # What it applied before it saw the pause waits no more.
                if not connection.execute(WAITING).fetchone()[0]:
                    shop.more(dsn, 20)
                connection.execute("UPDATE shop.mt_events SET timestamp = now() - interval '1 day'")
                connection.execute(OLD)
                return ask(address, "/readyz")[0] == 503

            until(stalls, every=0.2)
        (version,) = ask(address, "/readyz")[1]["projections"]
        assert version["wrong"][0].startswith("has not advanced for ")
        assert version["wrong"][0].endswith("while events wait; see esops status")
        carts.ok("projection", "resume", "cart_summary")
        until(lambda: ask(address, "/readyz")[0] == 200)

        assert ask(address, "/nope") == (404, {"paths": ["/livez", "/readyz"]})
        taken = carts.run("run", "--health", address)
        assert taken.code == 2
        assert taken.err.startswith(f"error: --health {address}: address already in use")
    finally:
        end(process)
    assert process.returncode == 0


@pytest.mark.parametrize("given", ["99999", "host:", "here", "256.1.1.1:80", "-1"])
def test_an_address_that_cannot_be_had_is_refused_before_anything_begins(project, given):
    shop.configure(project, "postgresql://nobody@127.0.0.1:1/none")
    result = project.run("run", "--health", given)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("error: --health ")
    assert "following" not in result.err


def test_a_loop_that_stands_still_is_not_live_and_old_answers_are_none(project):
    shop.configure(project, "postgresql://nobody@127.0.0.1:1/none")
    config = load_config(project.folder / "esops.toml")
    now = time.monotonic()
    host = SimpleNamespace(turned=now, names=["cart_summary"])
    asked = probes.Probes(config, host, threading.Event())
    assert asked.live()[0]
    assert not asked.ready()[0]  # nothing is known yet
    asked._seen = probes._LastLook(monotonic=now)
    assert asked.ready()[0]
    asked._seen = probes._LastLook(probes.datetime.now(probes.UTC), now - probes.OLD_AFTER - 1)
    assert "the databases have not answered for 31 s" in asked.ready()[1]["wrong"]
    asked._seen = probes._LastLook(monotonic=now)
    host.turned = now - probes.LIVE_WITHIN - 1
    assert asked.live()[0] is asked.ready()[0] is False


def test_a_version_that_is_left_alone_for_its_code_does_not_count(dsn, project):
    shop.make(dsn, 60)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    shop.configure(project, dsn, code=shop.PROJECTION.replace('"open"', '"begun"'))
    project.ok("rebuild", "--blue-green", "--max-diff", "100%")
    config = load_config(project.folder / "esops.toml")
    host = SimpleNamespace(turned=time.monotonic(), names=["cart_summary"])

    def first_version() -> dict:
        found = probes.Probes(config, host, threading.Event()).look().projections
        return next(each for each in found if each["version"] == 1)

    assert not first_version()["ready"]  # nothing has looked at its code yet
    project.ok("run", "--until-caught-up")
    assert first_version()["ready"]
    assert "other code" in first_version()["note"]
    status = project.ok("status", "--output", "json").json["projections"]
    details = {each["version"]: each["detail"] for each in status}
    assert "versions.1.python" in details[1]
    assert details[2] is None

    shop.configure(project, dsn)  # its code is there again, and v2 is followed by it
    project.run("run", "--until-caught-up")
    assert not first_version()["ready"]


def test_no_value_of_an_event_and_no_text_of_an_error_is_told(carts, own_server):
    """Anybody who reaches the port may ask."""
    process = carts.start("run", "--health", "0")
    try:
        address = listening(process)
        with psycopg.connect(own_server.dsn(), autocommit=True) as connection:
            connection.execute(
                "INSERT INTO esops.rebuild_log (rebuild, step, event, detail) "
                "SELECT max(rebuild), 'active', 'failed', "
                """'{"reason": "ValueError: jane@example.com", "host": "h", "pid": 1}' """
                "FROM esops.rebuilds"
            )
            until(lambda: "fails since" in json.dumps(ask(address, "/readyz")[1]))
        told = json.dumps(ask(address, "/readyz")[1])
        assert "see esops status" in told
        assert "jane" not in told
    finally:
        end(process)


def test_many_clients_at_once_wait_for_no_second_attempt():
    """A full queue makes the system try again after a second, which is a probe's timeout."""
    from esops.health.listening import HealthPort

    listener = HealthPort("--health", "0")
    host, port = listener.address.split(":")
    clients = [socket.socket() for _ in range(60)]
    try:
        for client in clients:  # nobody accepts yet
            client.setblocking(False)
            client.connect_ex((host, int(port)))
        connected = [each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 for each in clients]
        states = [each.connect_ex((host, int(port))) for each in clients]
        assert all(connected)
        assert not any(state == errno.EALREADY for state in states)
    finally:
        for client in clients:
            client.close()
        listener.close()


def test_a_client_that_says_nothing_keeps_nobody_waiting():
    from esops.health.listening import HealthPort

    listener = HealthPort("--health", "0")
    with listener.serving({"/livez": lambda: (True, {"live": True})}):
        host, port = listener.address.split(":")
        with socket.create_connection((host, int(port))):
            assert ask(listener.address, "/livez") == (200, {"live": True})
