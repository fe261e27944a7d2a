"""Notifications: the configuration, what is told of stalls, and how long a delivery is waited for."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from esops.config import parse_config
from esops.errors import UsageError
from esops.health import stalls
from esops.notifying import delivery
from esops.notifying import notifier as module
from esops.notifying.delivery import NotDelivered, deliver
from esops.notifying.notification import Notification
from esops.notifying.notifier import Notifier
from esops.notifying.stalls import stall_of
from esops.settings.notify import NotifySettings
from tests.support.waiting import DEADLINE, until


@contextmanager
def webhook(head: bytes, sent: bytes):
    """One that answers with a beginning, and then goes on for as long as somebody listens."""
    over = threading.Event()

    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        with client, suppress(OSError):
            client.recv(65536)
            client.sendall(head)
            deadline = time.monotonic() + DEADLINE
            while not over.wait(0.02) and time.monotonic() < deadline:
                client.sendall(sent)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"
        over.set()


def is_alive(pid: int) -> bool:
    """A zombie of another parent is none."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "needs one of"),
        ({"webhook": "https://a/b", "command": ["x"]}, "needs one of"),
        ({"webhook": "hooks.example/s3cret"}, "begins with https://"),
        ({"command": ["x"], "format": "slack"}, "is for a webhook"),
        ({"webhook": "https://a/s3cret", "onn": []}, "unknown key"),
    ],
)
def test_a_wrong_section_is_named_and_its_address_is_not(section, said):
    with pytest.raises(UsageError) as error:
        parse_config({"notify": {"ops": section}}, Path("esops.toml"))
    assert "notify.ops" in error.value.message
    assert said in error.value.message
    assert "s3cret" not in f"{error.value.message}{error.value.hint}"


def test_a_busy_lock_is_told_only_to_who_asks_for_it():
    usual = NotifySettings(webhook="https://a/b")
    assert not Notification("busy", "").is_for(usual)
    assert Notification("busy", "").is_for(NotifySettings(webhook="https://a/b", on=("busy",)))
    assert "https://a/b" not in repr(usual)


def test_a_stall_is_told_without_its_reason_or_a_tenant():
    notification = stall_of({"store": "shop", "processor": "Carts", "tenant": "Ann"}, 61.2)
    assert (
        notification.text
        == "the processor Carts of store shop has not advanced for 61 s while events wait; see esops status"
    )
    assert "Ann" not in str(notification.as_dict())
    again = stall_of({"projection": "carts", "version": 2}, None)
    assert (again.kind, again.text, again.projections) == (
        "recovery",
        "carts v2 advances again",
        ["carts"],
    )


def test_a_delivery_that_hangs_is_given_up(monkeypatch):
    """The end of a command waits no longer than that, whatever the other side does."""
    hangs = 30.0
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    monkeypatch.setattr(module, "deliver", lambda *_: time.sleep(hangs))
    notifier = Notifier({"ops": NotifySettings(command=("x",))}, Path())
    began = time.monotonic()
    for _ in range(200):  # more than are kept waiting
        notifier.send(Notification("end", "done"))
    notifier.close()
    assert timedelta(seconds=time.monotonic() - began) < timedelta(seconds=hangs)


@pytest.mark.parametrize("sent", [b"x", b"x" * 1_000_000], ids=["drips", "floods"])
def test_a_webhook_whose_body_has_no_end_has_answered(sent):
    """What it answers is its status."""
    with webhook(b"HTTP/1.1 200 ok\r\nContent-Length: 999999999999\r\n\r\n", sent) as address:
        deliver(NotifySettings(webhook=address), Path(), Notification("end", "done"))


def test_a_webhook_that_never_comes_to_its_status_is_given_up(monkeypatch):
    """Each byte would begin a time-out of its own."""
    monkeypatch.setattr(delivery, "LIMIT", 0.3)
    with (
        webhook(b"HTTP/1.1 200 ok\r\nX-Long: ", b"x") as address,
        pytest.raises(NotDelivered, match="not answered within"),
    ):
        deliver(NotifySettings(webhook=address), Path(), Notification("end", "done"))


def test_a_program_without_a_slash_is_looked_up_in_the_path_alone(tmp_path):
    program = tmp_path / "esops-tell"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    here = NotifySettings(command=("./esops-tell",))
    assert delivery.problem_of(here, tmp_path) is None
    assert delivery.problem_of(NotifySettings(command=("esops-tell",)), tmp_path) is not None


def test_what_a_shell_has_started_ends_with_it(monkeypatch, tmp_path):
    monkeypatch.setattr(delivery, "LIMIT", 1.0)
    command = ("sh", "-c", "sleep 300 & echo $! > child; wait; true")
    with pytest.raises(NotDelivered, match="was killed"):
        deliver(NotifySettings(command=command), tmp_path, Notification("end", "done"))
    child = int((tmp_path / "child").read_text())
    until(lambda: not is_alive(child))


def test_a_stall_is_told_once_and_so_is_its_end(monkeypatch):
    """Its reasons may change in the meantime, which only the log says."""
    found, heard = [], []
    monkeypatch.setattr(stalls, "of_versions", lambda *_: iter(found))
    log = stalls.StallLog(parse_config({}, Path("esops.toml")), lambda *told: heard.append(told))
    version = SimpleNamespace(projection="carts", version=2, position=None)
    for reasons in (["paused"], ["paused"], ["a lock"]):
        found[:] = [(version, stalls.Stall(61.0, reasons))]
        log.look(["carts"])
    found.clear()
    log.look(["carts"])
    named = {"projection": "carts", "version": 2}
    assert heard == [(named, stalls.Stall(61.0, ["paused"])), (named, None)]
