"""Random histories of a store over every layout: a job sees all of it, or refuses.

Which steps there are, and what the oracle holds against each job, is in tests/support/histories.
`ESOPS_TEST_HISTORIES` says how many a layout gets, and `ESOPS_TEST_HISTORY_SEED` where to begin.
"""

from __future__ import annotations

import os

import pytest

from tests.support.cases import thorough_in
from tests.support.histories.plans import History, history
from tests.support.histories.runs import failure, smaller, staged
from tests.support.histories.tables import LAYOUTS
from tests.support.soak import SOAK, rounds

COUNT = int(os.environ.get("ESOPS_TEST_HISTORIES", rounds(1, 300)))
SEED = int(os.environ.get("ESOPS_TEST_HISTORY_SEED", 1))
PINNED = {
    "numbers behind the newest event are not passed": (
        ["marten-quick", "emmett-by-position"],
        [
            ("append", 0, 1),
            ("begin", 0),
            ("append", 0, 2),
            ("rollback", 0),
            ("catch_up",),
            ("set_uncalled", 1),
            ("append", 0, 2),
            ("catch_up",),
        ],
    ),
    "rows above the sequence": (
        ["emmett", "emmett-by-position"],
        [("append", 0, 1), ("import", 0, 2, 2), ("catch_up",), ("follow",), ("read",)],
    ),
    "rows above a sequence that was never called": (
        ["emmett", "messagedb"],
        [("import", 0, 2, 2), ("catch_up",), ("follow",), ("read",), ("status",)],
    ),
    "a sequence that was set back": (
        ["emmett-by-position"],
        [("append", 0, 3), ("set_back", 1000), ("catch_up",), ("read",)],
    ),
    "numbers of a session's cache": (
        ["marten-rich", "emmett-by-position"],
        [
            ("set_cache", 3),
            ("append", 0, 1),
            ("append", 1, 1),
            ("follow",),
            ("pause",),
            ("follow",),
            ("read",),
            ("catch_up",),
            ("append", 0, 1),
            ("catch_up",),
        ],
    ),
    "numbers of a block that the application hands out": (
        ["custom-watched"],
        [
            ("set_increment", 50),
            ("pool", 0, 1),
            ("pool", 0, 1),
            ("pool", 1, 1),
            ("follow",),
            ("pause",),
            ("follow",),
            ("read",),
            ("catch_up",),
            ("pool", 0, 1),
            ("catch_up",),
        ],
    ),
    "a sequence that is made again": (
        ["marten-quick", "emmett-by-position"],
        [
            ("append", 0, 2),
            ("follow",),
            ("recreate", 1),
            ("begin", 0),
            ("append", 0, 1),
            ("append", 1, 1),
            ("follow",),
            ("pause",),
            ("follow",),
            ("commit", 0),
            ("follow",),
            ("catch_up",),
        ],
    ),
    "an import that the sequence overtakes": (
        ["eventsourcing", "emmett-by-position"],
        [
            ("append", 0, 1),
            ("begin", 0),
            ("import", 0, 2, 1),
            ("leap", 5),
            ("append", 1, 1),
            ("follow",),
            ("pause",),
            ("follow",),
            ("commit", 0),
            ("catch_up",),
        ],
    ),
    "a store restored to an earlier time": (
        ["emmett", "eventsourcing"],
        [
            ("append", 0, 3),
            ("take_backup",),
            ("append", 0, 2),
            ("catch_up",),
            ("restore", 1),
            ("catch_up",),
            ("append", 0, 4),
            ("catch_up",),
        ],
    ),
    "a store restored in a server that runs, whose streams go on the same": (
        ["eventsourcing"],
        [
            ("take_backup",),
            ("append", 1, 1),
            ("begin", 0),
            ("append", 0, 3),
            ("rollback", 0),
            ("catch_up",),
            ("restore", 0),
            ("append", 1, 2),
            ("catch_up",),
        ],
    ),
    "a store restored under a process that follows it": (
        ["custom-watched"],
        [
            ("append", 0, 3),
            ("take_backup",),
            ("append", 0, 2),
            ("follow",),
            ("restore", 1),
            ("append", 0, 4),
            ("follow",),
        ],
    ),
}
"""Histories that went wrong once, with some layouts on which they did."""
FEWER = {
    "marten-rich",
    "emmett",
    "eventsourcing",
    "custom-quick",
    "custom-watched",
    "rows above the sequence",
    "rows above a sequence that was never called",
    "an import that the sequence overtakes",
    "a store restored to an earlier time",
}
"""Layouts and histories that add least to the others."""


@pytest.fixture(scope="module")
def stage(server, tmp_path_factory):
    with staged(server, tmp_path_factory.mktemp("histories")) as stage:
        yield stage


@pytest.mark.timeout(rounds(300, 7_200))
@pytest.mark.parametrize("layout", thorough_in(LAYOUTS, FEWER))
def test_every_job_sees_all_that_was_committed_or_refuses(layout, stage):
    for seed in range(SEED, SEED + COUNT):
        one = history(LAYOUTS[layout], seed)
        wrong = failure(stage, one)
        if wrong is not None:
            found, still = smaller(stage, one)
            pytest.fail(f"{wrong}\n{found}\n{still or 'which does not fail every time'}")


@pytest.mark.parametrize("name", thorough_in(PINNED, FEWER))
def test_histories_that_went_wrong_once(name, stage):
    few, steps = PINNED[name]
    for layout in LAYOUTS if SOAK and len(few) > 1 else few:
        stage.run(History(layout, 0, tuple(steps)))
