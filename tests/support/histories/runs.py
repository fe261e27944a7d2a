"""Runs histories, and makes one that fails smaller."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from tests.support.databases import database
from tests.support.histories.jobs import Jobs, Wrong
from tests.support.histories.plans import History, Step
from tests.support.histories.tables import LAYOUTS, Tables
from tests.support.histories.world import World


@dataclass
class Stage:
    """One database with the tables of every layout, in which one history runs after the other."""

    dsn: str
    folder: Path
    _worlds: dict[str, tuple[World, Jobs]] = field(default_factory=dict)

    def run(self, one: History) -> None:
        """Run a history from an empty store. Raises Wrong."""
        world, jobs = self._world(LAYOUTS[one.layout])
        world.reset()
        jobs.reset()
        try:
            for step in one.steps:
                self._do(world, jobs, step)
            world.check_books()
        finally:
            jobs.end()
            world.close_sessions()

    def _world(self, tables: Tables) -> tuple[World, Jobs]:
        if tables.name not in self._worlds:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                row = connection.execute("SELECT to_regclass(%s)", (tables.events,)).fetchone()
                if row[0] is None:
                    tables.create(connection)
            world = World(self.dsn, tables)
            self._worlds[tables.name] = world, Jobs(world, self.folder / tables.name)
        return self._worlds[tables.name]

    def _do(self, world: World, jobs: Jobs, step: Step) -> None:
        name, *values = step
        world.lost = set()
        if not jobs.knows(name):
            world.do(name, *values)
            return
        if not values:
            jobs.do(name)
            return
        jobs.meanwhile = threading.Thread(target=_meanwhile, args=(world, values))
        jobs.meanwhile.start()
        try:
            jobs.do(name)
        finally:
            jobs.meanwhile.join()
            jobs.meanwhile = None

    def close(self) -> None:
        for world, jobs in self._worlds.values():
            jobs.close()
            world.close()


def _meanwhile(world: World, steps: list[list]) -> None:
    for delay, name, *values in steps:
        time.sleep(delay / 1000)
        world.do(name, *values)


@contextmanager
def staged(server, folder: Path) -> Iterator[Stage]:
    """A stage on a server."""
    with database(server) as dsn:
        stage = Stage(dsn, folder)
        try:
            yield stage
        finally:
            stage.close()


def failure(stage: Stage, one: History) -> Wrong | None:
    """What is wrong with what esops says in a history."""
    try:
        stage.run(one)
    except Wrong as wrong:
        return wrong
    return None


def smaller(stage: Stage, one: History, seconds: float = 60.0) -> tuple[History, Wrong | None]:
    """A part of a failing history that fails, too: as small as is found in the time."""
    deadline = time.monotonic() + seconds
    found = failure(stage, one)
    size = max(1, len(one.steps) // 2)
    while found is not None and time.monotonic() < deadline:
        for start in range(0, len(one.steps), size):
            part = one.with_steps(one.steps[:start] + one.steps[start + size :])
            if time.monotonic() > deadline:
                break
            if (wrong := failure(stage, part)) is not None:
                one, found = part, wrong
                break
        else:
            if size == 1:
                break
            size //= 2
    return one, found
