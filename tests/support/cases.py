"""Which cases of a parametrised test `make test` runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough_in(cases: Iterable[Any], left: Collection[Any]) -> list[Any]:
    """All cases; those that are `left` are left to `make test-thorough`."""
    return [
        pytest.param(each, marks=pytest.mark.thorough) if each in left else each for each in cases
    ]


def thorough_but(cases: Iterable[Any], *kept: Any) -> list[Any]:
    """All cases; those that are not `kept` are left to `make test-thorough`."""
    found = [*cases]
    assert all(each in found for each in kept), "no such case"
    return thorough_in(found, [each for each in found if each not in kept])
