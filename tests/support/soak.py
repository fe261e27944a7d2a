"""How long the tests that repeat something go on: short in `make test`, long in `make soak`."""

from __future__ import annotations

import os

SOAK = os.environ.get("ESOPS_TEST_SOAK", "") not in ("", "0")


def rounds(short: int, long: int) -> int:
    """So many rounds here: `long` in a soak run (ESOPS_TEST_SOAK=1), else `short`."""
    return long if SOAK else short
