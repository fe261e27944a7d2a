"""`--workers auto`: the number of processes is measured, and they make the rows that one makes, or
one does it again."""

from __future__ import annotations

import json

import pytest

from esops.rebuild.load import measuring
from esops.rebuild.load.measuring import Cost, of_cost
from tests.support import shop
from tests.support.waiting import kill, until

EVENTS = 2_000
MICRO = 1e-6
WORK = "def cart_summary(row, event):\n    end = clock() + 1e-4\n    while clock() < end: pass\n"
# As if starting a process took no time: this is about a few thousand events, and a sample of some
# hundred.
MEASURED = (
    "from esops.rebuild.load import measuring\nmeasuring.cores = lambda: 2\nmeasuring._START = 0\n"
    "measuring._MOST_SECONDS = 0.05\n"
)
SLOW = "from time import thread_time as clock\n" + shop.PROJECTION.replace(
    "def cart_summary(row, event):\n", WORK
)
LATE = SLOW.replace(
    'row["total"] + count * data["UnitPrice"]',
    'row["total"] + count * (data["UnitPrice"] + (0.5 if at > 1_000 else 0))',
)
"""Totals are whole numbers at first, and then no more: what a fold sees of 5 becomes 5.0."""


@pytest.fixture
def carts(dsn, project):
    shop.make(dsn, EVENTS)
    project.patch(MEASURED)

    def configure(code=SLOW):
        shop.configure(project, dsn, code=code)
        return project

    return configure


def rebuilt(project, *more):
    done = project.ok("rebuild", "--blue-green", "--output", "json", *more)
    assert (done.json["state"], done.json["events"]) == ("switched", EVENTS)
    return done


@pytest.mark.thorough
def test_a_slow_fold_gets_two_processes_and_a_quick_one_does_not(carts):
    planned = carts().ok("rebuild", "--blue-green", "--workers", "auto", "--dry-run").out
    assert "  workers: 2 (the fold takes 9" in planned
    quick = json.loads(
        carts(shop.PROJECTION)
        .ok("rebuild", "--blue-green", "--workers", "auto", "--dry-run", "--output", "json")
        .out
    )
    assert quick["workers"] == 1
    assert "another process would gain little" in quick["workers_reason"]


@pytest.mark.thorough
def test_what_is_planned_for_a_slow_fold_and_a_quick_one_is_done(carts, connection):
    done = rebuilt(carts(), "--workers", "auto")
    assert "2 processes on this machine load up to" in done.err
    shop.check_version(connection, 1)
    assert "processes" not in rebuilt(carts(shop.PROJECTION), "--workers", "auto").err


@pytest.mark.thorough
def test_few_events_are_not_measured_unless_that_is_asked_for(carts):
    project = carts()
    assert "workers:" not in project.ok("rebuild", "--blue-green", "--dry-run").out
    project.patch(MEASURED + "measuring.WORTH_MEASURING = 1_000\n")
    assert "workers: 2 (" in project.ok("rebuild", "--blue-green", "--dry-run").out
    one = project.ok("rebuild", "--blue-green", "--dry-run", "--workers", "1")
    assert "workers:" not in one.out


def test_what_processes_might_do_otherwise_is_done_again_by_one(carts, connection):
    project = carts(LATE)
    # One process makes this.
    rebuilt(project, "--workers", "1")
    done = rebuilt(project, "--workers", "auto")
    assert "2 processes on this machine load up to" in done.err
    assert "one process begins the load again" in done.err
    assert done.json["verification"]["differing"] == 0
    assert connection.execute("SELECT count(*) FROM esops.shards").fetchone() == (0,)
    [options] = connection.execute(
        "SELECT options FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
    ).fetchone()
    assert (options["workers"], options["measured"]) == (1, False)


@pytest.mark.thorough
def test_who_asks_for_a_number_gets_it(carts):
    done = rebuilt(carts(LATE), "--workers", "2")
    assert "begins the load again" not in done.err


@pytest.mark.thorough
@pytest.mark.parametrize("more", [(), ("--workers", "auto")])
def test_a_killed_load_resumes_with_the_number_that_was_found(carts, connection, more):
    project = carts(SLOW)
    # A load that cannot end before it was killed; the sample lies before this event.
    go_on = project.folder / "go-on"
    waits = f"    while at > 1_500 and not exists({str(go_on)!r}): sleep(0.01)\n"
    code = SLOW.replace("    if kind ==", f"{waits}    if kind ==", 1)
    project = carts(f"from os.path import exists\nfrom time import sleep\n{code}")
    process = project.start("rebuild", "--blue-green", "--workers", "auto", "--batch-size", "200")
    until(lambda: shards(connection) > 0)
    assert kill(process)
    go_on.touch()
    project.patch(MEASURED + "measuring.cores = lambda: 1\n")
    done = project.ok("rebuild", "--blue-green", "--resume", *more)
    assert "2 processes on this machine load up to" in done.err
    shop.check_version(connection, 1)


def shards(connection) -> int:
    if connection.execute("SELECT to_regclass('esops.shards')").fetchone() == (None,):
        return 0
    return connection.execute("SELECT coalesce(sum(events), 0) FROM esops.shards").fetchone()[0]


FAILING = SLOW.replace("    data,", '    assert event.position[0] != 5, "bad"\n    data,')


def test_a_fold_that_fails_on_the_sample_is_left_to_one_process(carts):
    planned = carts(FAILING).ok("rebuild", "--blue-green", "--workers", "auto", "--dry-run")
    assert "workers: 1 (the fold fails on one of the first events: AssertionError)" in planned.out


def test_workers_take_a_number_or_auto(carts):
    result = carts().run("rebuild", "--blue-green", "--workers", "many")
    assert result.code == 2
    assert "--workers many is no number of processes" in result.err


@pytest.mark.parametrize(
    ("fold", "cores", "expected"),
    [(1, 2, 1), (1, 8, 4), (10, 1, None), (10, 2, 2), (100, 2, 2), (100, 4, 4)],
)
def test_as_many_processes_as_the_fold_is_worth(fold, cores, expected):
    cost = Cost(fold * MICRO, 0.7 * MICRO)
    if expected is not None:
        found = of_cost(cost, cores, 1_000_000)
        assert (found.number > 1) == (expected > 1)
        assert found.number <= cores
        one, several = (cost.seconds(each, cores, 1_000_000) for each in (1, found.number))
        assert found.number == 1 or one >= 1.25 * several
    # Of few events, starting the processes takes longer than they save.
    assert measuring.of_cost(cost, max(cores, 2), 10_000).number == 1 or fold >= 100
