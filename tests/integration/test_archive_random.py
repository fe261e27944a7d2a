"""Random stores are archived, emptied and restored; see tests.support.random_stores."""

from __future__ import annotations

import pytest

from tests.support.random_stores.runs import Trials
from tests.support.soak import rounds


@pytest.mark.thorough
def test_random_stores_come_back_as_they_were_or_are_refused(dsn):
    trials = Trials(dsn)
    # One of each few layouts: the long series is run from the command line.
    wrong = [trials.failure(seed) for seed in range(1, rounds(6, 500))]
    trials.close()
    assert not any(wrong), "\n".join(filter(None, wrong))
    assert trials.counts["nothing"] * 4 < len(wrong)
