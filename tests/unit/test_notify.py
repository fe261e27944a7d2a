"""Notifications: the configuration, what is told of stalls, and how long a delivery is waited for."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from esops.config import parse_config
from esops.errors import UsageError
from esops.health import stalls
from esops.notifying import notifier as module
from esops.notifying.notification import Notification
from esops.notifying.notifier import Notifier
from esops.notifying.stalls import stall_of
from esops.settings.notify import NotifySettings


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
