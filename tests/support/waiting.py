"""Waiting for what another process does."""

from __future__ import annotations

from collections.abc import Callable

from esops.testing import eventually


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something holds; fails where it does not within `seconds`."""
    assert eventually(holds, seconds), f"not within {seconds} s"
