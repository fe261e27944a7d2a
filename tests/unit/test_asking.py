"""The loop of `esops run` asks databases beside itself: one that hangs does not hold it."""

from __future__ import annotations

import threading

import pytest

from esops.errors import Stopped
from esops.running import asking
from esops.running.asking import Asking
from tests.support.waiting import DEADLINE


def test_a_call_that_hangs_is_left_alone_when_the_loop_is_to_end(monkeypatch):
    monkeypatch.setattr(asking, "_GRACE", 0.1)
    stop, turned, asks = threading.Event(), [], Asking()

    def turns() -> None:
        turned.append(1)
        if len(turned) == 3:  # the loop turns while it waits
            stop.set()

    with pytest.raises(Stopped):
        asks.of(lambda: threading.Event().wait(DEADLINE), stop, turns)
    assert asks.gave_up


def test_what_a_call_returns_or_raises_comes_through():
    asks, stop = Asking(), threading.Event()
    assert asks.of(lambda: 7, stop, lambda: None) == 7
    with pytest.raises(ZeroDivisionError):
        asks.of(lambda: 1 / 0, stop, lambda: None)
    assert not asks.gave_up
