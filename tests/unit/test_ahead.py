"""Readers who move from blue to green, both kept fresh by the application, see nothing older."""

from __future__ import annotations

import pytest

from esops.events import Position
from esops.rebuild.variants.external import checkpoint


@pytest.mark.parametrize(
    ("blue", "green", "ahead"),
    [
        (None, None, True),
        (None, 1, True),
        (5, None, False),
        (5, 4, False),
        (5, 5, True),
        (5, 6, True),
    ],
)
def test_green_is_ahead_where_it_has_reached_what_blue_has(blue, green, ahead, monkeypatch):
    reached = {"blue": blue, "green": green}
    monkeypatch.setattr(
        checkpoint,
        "reached",
        lambda store, version: None if (at := reached[version]) is None else Position((at,)),
    )
    assert checkpoint.is_ahead("the store", "blue", "green") is ahead
