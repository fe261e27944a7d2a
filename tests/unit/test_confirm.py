"""A question that is not answered with yes changes nothing, and says so."""

from __future__ import annotations

import signal

import pytest
import typer

from esops.cli import shared
from esops.errors import Stopped, UsageError


def test_no_and_silence_change_nothing(monkeypatch):
    monkeypatch.setattr(shared, "is_interactive", lambda: True)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: False)
    with pytest.raises(Stopped, match="nothing was changed"):
        shared.confirm("Drop it?", yes=False, what="this drops it")

    def ended(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", ended)
    with pytest.raises(Stopped, match="nothing was changed"):
        shared.confirm("Drop it?", yes=False, what="this drops it")
    shared.confirm("Drop it?", yes=True, what="this drops it")
    monkeypatch.setattr(shared, "is_interactive", lambda: False)
    with pytest.raises(UsageError, match="needs a confirmation"):
        shared.confirm("Drop it?", yes=False, what="this drops it")


def test_the_first_ctrl_c_ends_a_question(monkeypatch):
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    def asked(*_: object, **__: object) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr(shared, "is_interactive", lambda: True)
    monkeypatch.setattr(typer, "confirm", asked)
    try:
        # As a command that can be stopped has it by then.
        stop = shared.stop_on_signals()
        with pytest.raises(Stopped, match="nothing was changed"):
            shared.confirm("Drop it?", yes=False, what="this drops it")
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set(), "after the question, a signal stops the work"
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), before, strict=True):
            signal.signal(each, handler)
