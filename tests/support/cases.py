"""Which cases of a parametrised test `make test` runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def thorough_but(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """All cases; those that are not `kept` are left to `make test-thorough`."""
    found = [*cases]
    assert all(each in found for each in kept), "no such case"
    return [
        each if each in kept else pytest.param(each, marks=pytest.mark.thorough) for each in found
    ]
