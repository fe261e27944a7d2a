"""Paths, ports and programs are looked at before a command does anything."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from esops.config import load_config
from esops.errors import UsageError
from esops.executables import check_executable
from esops.ports import listen_address
from esops.rebuild.api import RebuildRequest, plan
from esops.signalled import SignalledEvent
from esops.term.result_file import checked, write_page
from tests.support.config import toml


@pytest.mark.parametrize("text", ["99999", "-1", "x", "²", "host:", ""])
def test_what_is_no_port_is_said(text):
    with pytest.raises(UsageError, match="this is not a port"):
        listen_address("--serve", text)


def test_a_port_that_is_taken_or_a_host_that_is_another_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UsageError, match="in use"):
            listen_address("--serve", str(taken.getsockname()[1]))
    for host in ("nohost.invalid:0", "192.0.2.1:0"):
        with pytest.raises(UsageError, match=f"--serve {host}"):
            listen_address("--serve", host)
    assert listen_address("--serve", "0") == ("127.0.0.1", 0)


def test_a_page_that_cannot_be_written_is_said(tmp_path):
    checked(None, "--report")
    checked(tmp_path / "page.html", "--report")
    assert not list(tmp_path.iterdir()), "a check leaves nothing"
    for path, why in ((tmp_path / "no" / "p.html", "no folder"), (tmp_path, "this is a folder")):
        with pytest.raises(UsageError, match=f"--report: .*{why}"):
            checked(path, "--report")
    write_page(tmp_path / "page.html", "new")
    assert (tmp_path / "page.html").read_text() == "new"


def test_a_program_that_cannot_be_run_is_said(tmp_path):
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    script = tmp_path / "script"
    script.write_text("#!/no/such/shell -e\n")
    script.chmod(0o755)
    for command, why in (
        (["./nosuch"], "there is no program"),
        (["nosuch-at-all"], "in PATH"),
        (["./plain"], "may not be run"),
        (["./script"], "/no/such/shell, which is not there"),
        (["/"], "is a folder"),
    ):
        with pytest.raises(UsageError, match=why):
            check_executable("hooks.switch", command, tmp_path)
    script.write_text("#!/bin/sh\n")
    for command in ([], ["sh"], ["./script"]):
        check_executable("hooks.switch", command, tmp_path)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("hooks.after_switch", {"python": "m:f", "hooks": {"after_switch": ["./nosuch"]}}),
        ("command", {"kind": "process", "command": ["./nosuch"]}),
        ("start", {"kind": "external", "start": ["./nosuch"], "checkpoint": "C:V2:All"}),
    ],
)
def test_a_rebuild_begins_with_programs_that_can_be_run(tmp_path: Path, key, settings):
    path = tmp_path / "esops.toml"
    path.write_text(
        toml(
            {
                # An address that nobody answers: the database is not asked.
                "stores": {"shop": {"dsn": "host=/nonexistent dbname=x"}},
                "projections": {"carts": {"store": "shop", "tables": ["carts"], **settings}},
            }
        )
    )
    with pytest.raises(UsageError, match=f"projections.carts.{key}"):
        plan(load_config(path), ["carts"], RebuildRequest())


def test_two_signals_at_once_stop_a_command():
    """As `timeout` sends them: to the process, and then to its group."""
    stop = SignalledEvent()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    try:
        ended = time.monotonic() + 20

        def send() -> None:
            while not stop.is_set() and time.monotonic() < ended:
                os.kill(os.getpid(), signal.SIGUSR1)

        for _ in range(20):
            stop = SignalledEvent()
            senders = [threading.Thread(target=send) for _ in range(3)]
            for each in senders:
                each.start()
            assert stop.wait()
            for each in senders:
                each.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_an_event_wakes_all_who_wait():
    stop = SignalledEvent()
    assert not stop.wait(-1.0)
    assert not stop.wait(0)
    woken = []
    waiting = [threading.Thread(target=lambda: woken.append(stop.wait())) for _ in range(3)]
    for each in waiting:
        each.start()
    stop.set()
    for each in waiting:
        each.join()
    assert woken == [True] * 3
    assert stop.wait(0)
