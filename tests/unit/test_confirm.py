"""A question that is not answered with yes changes nothing, and says so."""

from __future__ import annotations

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
