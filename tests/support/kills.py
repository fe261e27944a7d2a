"""`kill -9` of rebuilds, in each of their states."""

from __future__ import annotations

import itertools
import random
import time

from tests.support.waiting import DEADLINE, kill

STATES = ("planned", "provisioned", "catching-up", "following", "verified", "switched")
GOALS = (
    "catching-up",
    "planned",
    "following",
    "verified",
    "catching-up",
    "provisioned",
    "switched",
)
"""States to be killed in, in the order in which a short series takes them."""


def state(connection) -> str | None:
    """Where the newest rebuild is, by the journal; None before there is one."""
    if not _journal(connection):
        return None
    row = connection.execute(
        "SELECT state FROM esops.rebuilds ORDER BY rebuild DESC LIMIT 1"
    ).fetchone()
    return row and row[0]


def unfinished(connection) -> bool:
    """Whether there is a rebuild to be resumed."""
    return (
        _journal(connection)
        and connection.execute(
            "SELECT EXISTS (SELECT FROM esops.rebuilds WHERE finished_at IS NULL)"
        ).fetchone()[0]
    )


def finished(connection) -> int:
    """How many rebuilds are done."""
    if not _journal(connection):
        return 0
    return connection.execute(
        "SELECT count(*) FROM esops.rebuilds WHERE finished_at IS NOT NULL"
    ).fetchone()[0]


def _journal(connection) -> bool:
    (name,) = connection.execute("SELECT to_regclass('esops.rebuilds')").fetchone()
    return name is not None


class Kills:
    """A series of kills: of each process that is given, once it has come to the next goal."""

    def __init__(self, connection, seed: int) -> None:
        self._connection, self._chance = connection, random.Random(seed)
        self._goals = itertools.cycle(GOALS)
        self.count = 0
        self.states: set[str | None] = set()

    def wait(self, process) -> bool:
        """Wait until a rebuild is in the next goal's state, or past it, and a moment longer; whether
        it has not ended yet.
        """
        goal = STATES.index(next(self._goals))
        # A rebuild that was never killed in so early a state passes it within milliseconds.
        begun = (finished(self._connection), state(self._connection))
        deadline = time.monotonic() + DEADLINE
        while process.poll() is None and time.monotonic() < deadline:
            now = state(self._connection)
            moved = unfinished(self._connection) or (finished(self._connection), now) != begun
            if moved and (now not in STATES or STATES.index(now) >= goal):
                break
            time.sleep(0.01)
        # Right at the change of state as often as later in it.
        if self._chance.random() < 0.5:
            time.sleep(self._chance.random() * 0.3)
        return process.poll() is None

    def one(self, process) -> bool:
        """Kill it so; whether it was killed, and had not come to its end before."""
        return self.wait(process) and self.now(process)

    def now(self, process) -> bool:
        """Kill it where it is."""
        if not kill(process):
            return False
        self.count += 1
        self.states.add(state(self._connection))
        return True
