"""Whose speed is carried on to how many events."""

from __future__ import annotations

import pytest

from esops.rebuild import estimate, made_of
from esops.rebuild.made_of import LastRebuild


@pytest.mark.parametrize(
    ("own", "any_other", "events", "seconds"),
    [
        (LastRebuild(60, 0.6), None, 100_060, None),
        (LastRebuild(60, 0.6), None, 600, 6.0),
        (LastRebuild(60, 0.6), LastRebuild(100_000, 10), 1_000_000, 100.0),
        (LastRebuild(100_000, 10), None, 1_000_000_000, 100_000.0),
        (None, None, 10, None),
    ],
)
def test_a_small_rebuild_says_nothing_of_a_large_one(monkeypatch, own, any_other, events, seconds):
    monkeypatch.setattr(estimate.migrations, "installed", lambda _: True)
    monkeypatch.setattr(made_of, "last_rebuild", lambda _, name: own if name else any_other)
    assert estimate._seconds(None, "carts", events) == pytest.approx(seconds)
