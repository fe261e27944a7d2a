"""`kill -9` at random moments, over and over, with writers on: nothing lost, nothing doubled,
whatever the state was.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import time

import pytest

from tests.support import shop

pytestmark = pytest.mark.slow
KILLS = 50


@pytest.mark.timeout(600)
def test_rebuilds_killed_fifty_times_equal_the_fold_over_all_events(dsn, connection, project):
    shop.make(dsn, 60_000)
    shop.configure(project, dsn)
    chance = random.Random(7)
    kills, finished, states = 0, [], set()
    with shop.People() as people:
        people.add("writer", dsn, seed=1, rate=150)
        people.add("writer", dsn, seed=2, rate=150)
        while kills < KILLS:
            process = (
                project.start(
                    "rebuild", "--blue-green", "--resume", "--batch-size", "1500", "--quiet"
                )
                if _unfinished(connection)
                else project.start("rebuild", "--blue-green", "--batch-size", "1500", "--quiet")
            )
            wait = 0.25 + chance.random() * 1.6
            if len(finished) < kills // 15:
                wait = 120  # on a slow machine, too, some have to finish
            if kills % 5 == 4 and wait < 120:
                _past_catching_up(
                    process, connection
                )  # else a slow machine is killed in one state alone
                wait = chance.random() / 10
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            if process.poll() is None:
                process.kill()
                kills += 1
                process.communicate()
                states.add(_state(connection))
            else:
                out, err = process.communicate()
                assert process.returncode == 0, out + err
                version = connection.execute(
                    "SELECT active_version FROM esops.projections"
                ).fetchone()[0]
                finished.append(version)
                shop.check_version(connection, version)
                project.ok("projection", "retire", "cart_summary") if len(finished) > 1 else None
        if _unfinished(connection):
            project.ok("rebuild", "--blue-green", "--resume", "--quiet")
        reports = people.stop()
    version = connection.execute("SELECT active_version FROM esops.projections").fetchone()[0]
    shop.check_version(connection, version)
    project.ok("run", "--until-caught-up")
    rows = shop.check_version(connection, version)
    assert rows > 6000
    assert sum(report["events"] for report in reports) > 1000, "the writers were not on"
    assert len(finished) >= 3
    assert len(states) >= 3, f"killed only in {states}"
    seen = connection.execute("SELECT count(*), max(position) FROM cart_summary").fetchone()
    last = connection.execute(
        "SELECT count(DISTINCT stream_id), max(seq_id) FROM shop.mt_events"
    ).fetchone()
    assert seen == last
    print(
        f"\n{kills} kills in {sorted(map(str, states))}, {len(finished)} rebuilds finished, "
        f"{rows} rows"
    )


def test_a_follower_killed_over_and_over_applies_each_event_once(dsn, connection, project):
    shop.make(dsn, 5_000)
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")
    chance = random.Random(3)
    with shop.People() as people:
        people.add("writer", dsn, seed=3, rate=300)
        for _ in range(8):
            process = project.start("run")
            time.sleep(0.4 + chance.random() * 1.8)
            process.kill()
            process.communicate(
                timeout=30
            )  # its children hold the output open: they notice, however young they are
        people.stop()
    project.ok("run", "--until-caught-up")
    shop.check_version(connection, 1)


def _unfinished(connection) -> bool:
    if connection.execute("SELECT to_regclass('esops.rebuilds') IS NULL").fetchone()[0]:
        return False
    return connection.execute(
        "SELECT EXISTS (SELECT FROM esops.rebuilds WHERE finished_at IS NULL)"
    ).fetchone()[0]


def _past_catching_up(process, connection):
    while process.poll() is None and _state(connection) not in (
        "following",
        "verified",
        "switched",
    ):
        time.sleep(0.005)


def _state(connection):
    if connection.execute("SELECT to_regclass('esops.rebuilds') IS NULL").fetchone()[0]:
        return None
    row = connection.execute(
        "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
    ).fetchone()
    return row and row[0]
