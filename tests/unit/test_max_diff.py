"""How many differences `--max-diff` lets through."""

from __future__ import annotations

import pytest

from esops.errors import UsageError
from esops.rebuild.verification.result import Verification, check_max_diff, enough, tolerated


@pytest.mark.parametrize(
    ("blue", "green", "differing", "max_diff", "fine"),
    [
        (10, 10, 1, "10%", True),
        (10, 10, 2, "10%", False),
        (10, 25, 15, "100%", True),
        (10, 25, 15, "99%", False),
        (0, 25, 25, "100%", True),
        (None, 25, 25, " 100 %", True),
        (10, 25, 15, "15", True),
        (10, 25, 15, "14", False),
    ],
)
def test_a_share_of_blue_and_all_of_it(blue, green, differing, max_diff, fine):
    assert tolerated(Verification("exact", blue, green, differing), max_diff) is fine


def test_a_failed_assertion_is_never_tolerated_and_other_text_is_refused():
    failed = Verification("exact", 1, 1, 0, failed_assertions=["count(*) > 5"])
    assert not tolerated(failed, "100%")
    with pytest.raises(UsageError):
        check_max_diff("x%")


@pytest.mark.parametrize(
    ("differing", "of", "said"),
    [
        (21_062, 23_302, "91%"),
        (3, 23_302, "3"),
        (233, 23_302, "233"),
        (234, 23_302, "2%"),
        (25, 10, "100%"),
        (25, None, "100%"),
    ],
)
def test_what_is_proposed_lets_these_differences_through(differing, of, said):
    assert enough(differing, of) == said
    assert tolerated(Verification("exact", of, 30_000, differing), said)
