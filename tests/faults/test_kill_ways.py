"""`kill -9` in every kind of projection and way of rebuilding, with writers on.

One loop for all: a rebuild is begun, killed, resumed, and begun anew when it is done; in the end
the rows are those of a fold over all
events. What is killed is the rebuild's process, and with several processes one of those as often.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.integration import test_external as external
from tests.integration import test_together as together
from tests.support import kinds, shop
from tests.support.cases import thorough_but
from tests.support.kills import STATES, Kills, finished, state, unfinished
from tests.support.soak import rounds
from tests.support.waiting import finish, until

pytestmark = pytest.mark.slow
EVENTS = rounds(2_000, 6_000)
KILLS = rounds(2, 24)
PACE = ("--batch-size", "200", "--max-rate", "5000")


@dataclass
class Variant:
    """How a rebuild is begun and gone on with, and what must be right when one is done and at the
    end.
    """

    begin: list[str]
    check: Callable[[], None]
    resume: list[str] = field(
        default_factory=lambda: ["rebuild", "--blue-green", "--resume", *PACE]
    )
    done: Callable[[], None] = lambda: None
    caught_up: bool = True


def of_kind(project, dsn, connection, kind: str) -> Variant:
    if kind == "process" and shutil.which("node") is None:
        pytest.skip("there is no node")
    kinds.configure(project, dsn, kind)
    return Variant(
        ["rebuild", "--blue-green", *PACE],
        lambda: _right(connection),
        done=lambda: _retire(project),
    )


def _right(connection) -> None:
    (last,) = connection.execute("SELECT max(seq_id) FROM shop.mt_events").fetchone()
    assert shop.table(connection, "cart_summary") == shop.truth(connection, last)


def _retire(project) -> None:
    project.run("projection", "retire", "cart_summary", "--yes")


def in_shards(project, dsn, connection) -> Variant:
    shop.configure(project, dsn)
    return Variant(
        ["rebuild", "--blue-green", "--workers", "2", *PACE],
        lambda: _right(connection),
        done=lambda: _retire(project),
    )


def in_place(project, dsn, connection, *more: str) -> Variant:
    shop.configure(project, dsn)
    project.ok("rebuild", "--blue-green")

    connection.execute("UPDATE cart_summary__v1 SET items = -1")
    begin = ["rebuild", "--yes", *more, *PACE]
    return Variant(begin, lambda: _right(connection), ["rebuild", "--resume", *PACE])


def several(project, dsn, connection) -> Variant:
    together.configure(project, dsn)
    begin = ["rebuild", *together.NAMES, "--blue-green"]
    return Variant([*begin, *PACE], lambda: together.check(connection), [*begin, "--resume", *PACE])


def by_the_application(project, dsn, connection) -> Variant:
    """The application follows both versions; each rebuild has it begin another one."""
    app = external.Application(dsn, project.folder)
    app.start(1)
    number = 2

    def configure() -> None:
        external.configure(project, dsn, app, number)

    def done() -> None:
        nonlocal number
        number += 1
        configure()

    def check() -> None:
        (version,) = connection.execute("SELECT active_version FROM esops.projections").fetchone()
        until(lambda: external.documents(connection, version) == external.truth(connection))

    configure()
    return Variant(
        ["rebuild", "--blue-green"],
        check,
        ["rebuild", "--blue-green", "--resume"],
        done,
        caught_up=False,
    )


WAYS: dict[str, Callable[..., Variant]] = {
    **{kind: lambda *on, kind=kind: of_kind(*on, kind) for kind in ("handlers", "sql", "process")},
    "workers": in_shards,
    "in place": in_place,
    "ranges": lambda *on: in_place(*on, "--ranges", "5"),
    "several": several,
    "external": by_the_application,
}
KILLED = ("workers", "ranges")
"""What `make test` kills."""


@pytest.mark.timeout(rounds(300, 900))
@pytest.mark.parametrize(
    "way",
    # The others lose each answer once, in tests/faults/test_lost_answers.py.
    thorough_but(WAYS, *KILLED),
)
def test_each_way_is_killed_over_and_over_and_is_right_in_the_end(way, dsn, connection, project):
    shop.make(dsn, EVENTS)
    kills, done, shards = Kills(connection, len(way)), 0, 0
    # Processes are dear to start, and one of them is killed besides.
    wanted = rounds(1, KILLS) if way == "workers" else KILLS
    try:
        how = WAYS[way](project, dsn, connection)
        with shop.Workload() as workload:
            workload.add("writer", dsn, seed=4, rate=rounds(40, 100))
            # On a busy machine the shards may be done before one is found.
            while kills.count < wanted or not done or (way == "workers" and not shards):
                before = finished(connection)
                process = project.start(
                    *(how.resume if unfinished(connection) else how.begin), "--quiet"
                )
                to_the_end = done < kills.count // 8 or (
                    kills.count >= wanted and (way != "workers" or bool(shards))
                )
                if not to_the_end:
                    if kills.count % 2 == 0 and kills.wait(process):
                        shards += way == "workers" and _kill_a_shard(process, connection)
                    if kills.one(process):
                        if unfinished(connection) or finished(connection) == before:
                            continue  # else it was killed when all was done
                        done += 1
                        how.done()
                        continue
                out, err = finish(process)
                assert process.returncode == 0, f"after {kills.count} kills: {out}{err}"
                done += 1
                how.done()
            if unfinished(connection):
                project.ok(*how.resume)
            workload.stop()
        if how.caught_up:
            project.ok("run", "--until-caught-up")
        how.check()
        assert kills.states - {None}, f"killed only in {kills.states}"
        until(lambda: not any(_is_program(each, project.folder) for each in psutil.process_iter()))
        print(f"\n{way}: {kills.count} kills in {sorted(map(str, kills.states))}, {done} finished")
    finally:
        external.Application(dsn, project.folder).stop_all()


def _kill_a_shard(process, connection) -> bool:
    """Kill one of a rebuild's shards' processes, which are started a moment after its state has
    changed; whether there was one before the load was done.
    """
    while process.poll() is None and state(connection) in STATES[: STATES.index("following")]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children():
                if "esops.rebuild.load.worker" in each.cmdline():
                    each.kill()
                    return True
        time.sleep(0.01)
    return False


def _is_program(process: psutil.Process, folder: Path) -> bool:
    try:
        return "cart_summary.js" in process.cmdline() and process.cwd() == str(folder)
    except (psutil.Error, OSError):
        return False
