"""Histories from a seed: which steps, in which order, and what runs while a job does."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.histories.tables import Tables
from tests.support.histories.writers import SESSIONS

Step = tuple[object, ...]
"""A name with its numbers. A job may have steps that are carried out while it runs, each as a list
that begins with a delay in milliseconds.
"""

JOBS = {"read": 4, "catch_up": 4, "follow": 6, "status": 0.5}
_WRITERS = {
    "begin": 5,
    "append": 10,
    "draw": 3,
    "write": 4,
    "commit": 6,
    "rollback": 2,
    "undo": 1,
    "prepare": 1,
    "finish_prepared": 2,
    "kill": 1,
    "disconnect": 0.5,
    "leap": 1,
    "pause": 1.5,
    "repair": 0.5,
    "daemon": 0.7,
}
THEMES: dict[str, dict[str, float]] = {
    "plain": {},
    "jumps": {"leap": 8},
    "set back": {"set_back": 8, "repair": 2},
    "uncalled": {"set_uncalled": 8},
    "restart": {"restart": 5, "repair": 2},
    "cache": {"set_cache": 2, "append": 15, "pause": 3},
    "increment": {"set_increment": 2, "append": 8, "pause": 3},
    "pool": {"pool": 15, "set_increment": 1, "pause": 3},
    "recreate": {"recreate": 8},
    "import": {"import": 10, "leap": 5, "repair": 2},
    "squeeze": {"squeeze": 8, "leap": 3},
    "archive": {"archive": 8},
    "restore": {"take_backup": 4, "restore": 4, "append": 10},
    "daemon": {"daemon": 6, "draw": 6, "write": 6},
}
"""What a history is about, with the steps that this adds and their weights."""

_RIGHT = {"plain", "jumps", "archive", "daemon"}
"""Themes that leave nothing to refuse, once all transactions have ended."""
_FIRST = {"cache": "set_cache", "increment": "set_increment", "pool": "set_increment"}


@dataclass(frozen=True)
class History:
    """Steps with the seed that made them."""

    layout: str
    seed: int
    steps: tuple[Step, ...]

    def with_steps(self, steps: Sequence[Step]) -> History:
        return History(self.layout, self.seed, tuple(steps))

    def __str__(self) -> str:
        lines = "\n".join(f"    {json.dumps(step)}" for step in self.steps)
        return f"{self.layout}, seed {self.seed}:\n{lines}"


def history(tables: Tables, seed: int, *, themes: Sequence[str] = tuple(THEMES)) -> History:
    """The history of a seed. Other layouts get other histories of the same seed."""
    chance = random.Random(f"{seed} {tables.name}")
    weights = dict(_WRITERS)
    about = chance.sample(list(themes), min(len(themes), chance.choice((1, 1, 2))))
    for theme in about:
        for step, weight in THEMES[theme].items():
            weights[step] = weights.get(step, 0) + weight
    names, sizes = list(weights), list(weights.values())
    jobs, job_sizes = list(JOBS), list(JOBS.values())

    def writing() -> Step:
        return _with_numbers(chance, chance.choices(names, sizes)[0])

    steps: list[Step] = [
        _with_numbers(chance, f"set_{theme}") for theme in ("cache", "increment") if theme in about
    ]
    if chance.random() < 0.7:
        steps.append(("append", 0, chance.randint(1, 4)))
    for _ in range(chance.randint(8, 26)):
        if chance.random() < 0.35:
            during = [
                [chance.choice((1, 5, 20, 60)), *writing()]
                for _ in range(chance.choice((0, 0, 0, 1, 2)))
            ]
            steps.append((chance.choices(jobs, job_sizes)[0], *during))
        else:
            steps.append(writing())
    return History(tables.name, seed, (*steps, *_ending(chance, rightly=_RIGHT.issuperset(about))))


def _with_numbers(chance: random.Random, name: str) -> Step:
    session = chance.randrange(SESSIONS)
    values: dict[str, tuple[int, ...]] = {
        "begin": (session,),
        "restore": (chance.randrange(2),),
        "pool": (session, chance.randint(1, 3)),
        "append": (session, chance.randint(1, 4)),
        "draw": (session, chance.randint(1, 3)),
        "write": (session, chance.randint(1, 3)),
        "commit": (session,),
        "rollback": (session,),
        "undo": (session, chance.randint(1, 3)),
        "prepare": (session,),
        "finish_prepared": (chance.randrange(2),),
        "kill": (session,),
        "disconnect": (session,),
        "leap": (chance.choice((1, 3, 20, 1_000_000_000)),),
        "set_back": (chance.choice((1, 2, 5, 1_000)),),
        "set_uncalled": (chance.choice((-1_000, -2, 0, 1, 1, 50)),),
        "set_cache": (chance.choice((1, 3, 3, 10)),),
        "set_increment": (chance.choice((1, 2, 50, 50)),),
        "recreate": (chance.randrange(2),),
        "import": (session, chance.choice((1, 2, 30)), chance.randint(1, 3)),
        "squeeze": (session, chance.randint(1, 6)),
        "archive": (chance.randrange(2), chance.randint(1, 4)),
    }
    return (name, *values.get(name, ()))


def _ending(chance: random.Random, *, rightly: bool) -> list[Step]:
    """All transactions end, and everything has to come out; then what an operator would do, and
    once more. `rightly`: nobody made a mistake, so nothing may be refused.
    """
    steps: list[Step] = [("finish_prepared", 1)] * 3
    steps += [(chance.choice(("commit", "commit", "rollback")), each) for each in range(SESSIONS)]
    chance.shuffle(steps)
    jobs: list[Step] = [("follow",), ("catch_up",), ("read",)]
    chance.shuffle(jobs)
    if chance.random() < 0.2:
        jobs.append(("status",))
    steps += [*jobs, ("quit",), ("finish",) if rightly else ("repair",), ("again",)]
    if chance.random() < 0.1:
        steps.append((chance.choice(("in_place", "rebuild")),))
    return steps
