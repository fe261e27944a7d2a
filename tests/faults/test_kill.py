"""`kill -9` in every state, over and over, with writers on: nothing lost, nothing doubled."""

from __future__ import annotations

import random
import time

import pytest

from tests.support import shop
from tests.support.kills import Kills, unfinished
from tests.support.soak import SOAK, rounds
from tests.support.waiting import finish, kill, until

pytestmark = pytest.mark.slow
KILLS = rounds(5, 60)
EVENTS, BATCH = (60_000, "1500") if SOAK else (5_000, "300")


@pytest.mark.timeout(rounds(300, 900))
def test_rebuilds_killed_over_and_over_equal_the_fold_over_all_events(dsn, connection, project):
    shop.make(dsn, EVENTS)
    shop.configure(project, dsn)
    kills, finished = Kills(connection, 7), []
    with shop.Workload() as workload:
        for seed in (1, 2):
            workload.add("writer", dsn, seed=seed, rate=rounds(50, 150))
        while not _enough(kills) or not finished:
            resume = ("--resume",) if unfinished(connection) else ()
            process = project.start(
                "rebuild", "--blue-green", *resume, "--batch-size", BATCH, "--quiet"
            )
            # Some have to finish between the kills.
            to_the_end = _enough(kills) or len(finished) < kills.count // 15
            if not to_the_end and kills.one(process):
                continue
            out, err = finish(process)
            assert process.returncode == 0, out + err
            version = _active(connection)
            finished.append(version)
            shop.check_version(connection, version)
            if len(finished) > 1:
                project.run("projection", "retire", "cart_summary", "--yes")
        if unfinished(connection):
            project.ok("rebuild", "--blue-green", "--resume", "--quiet")
        reports = workload.stop()
    version = _active(connection)
    shop.check_version(connection, version)
    project.ok("run", "--until-caught-up")
    rows = shop.check_version(connection, version)
    assert rows > EVENTS // 10
    assert all(report["events"] for report in reports), "the writers were not on"
    seen = connection.execute("SELECT count(*), max(position) FROM cart_summary").fetchone()
    last = connection.execute(
        "SELECT count(DISTINCT stream_id), max(seq_id) FROM shop.mt_events"
    ).fetchone()
    assert seen == last
    print(
        f"\n{kills.count} kills in {sorted(map(str, kills.states))}, "
        f"{len(finished)} rebuilds finished, {rows} rows"
    )


@pytest.mark.thorough
def test_a_follower_killed_over_and_over_applies_each_event_once(dsn, connection, project):
    shop.make(dsn, 5_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    chance = random.Random(3)
    with shop.Workload() as workload:
        workload.add("writer", dsn, seed=3, rate=300)
        for number in range(rounds(3, 20)):
            stood = _position(connection)
            process = project.start("run")
            if number % 2 == 0:  # else it is killed while it starts
                until(lambda stood=stood: _position(connection) > stood)
            time.sleep(chance.random() * 0.3)
            kill(process)
        workload.stop()
    project.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)


def _enough(kills: Kills) -> bool:
    """How far a rebuild is when it is killed depends on the machine: some kills more do no harm."""
    assert kills.count < 3 * KILLS, f"killed only in {kills.states}"
    return kills.count >= KILLS and len(kills.states) >= 3


def _active(connection) -> int:
    return connection.execute("SELECT active_version FROM esops.projections").fetchone()[0]


def _position(connection) -> int:
    return int(connection.execute("SELECT max(position) FROM esops.versions").fetchone()[0])
