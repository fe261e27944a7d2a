"""`esops run` looks after its processes: which it starts, and when it starts one again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from esops.config import load_config
from esops.errors import UsageError
from esops.running import host as module
from esops.running.follower import DONE
from esops.running.host import Host
from esops.term import GlobalOptions
from tests.fast.clock import Clock


@dataclass
class Process:
    """Stands in for a version's process: its test says how it ends."""

    name: str
    exitcode: int | None = None
    started: bool = False
    terminated: bool = False
    pid: int = 1

    def start(self) -> None:
        self.started = True

    def terminate(self) -> None:
        self.terminated, self.exitcode = True, DONE

    def join(self, _: float) -> None: ...


@dataclass
class Processes:
    """What was started, in order; `ends` gives each its exit code, in turn."""

    ends: list[int | None] = field(default_factory=list)
    made: list[Process] = field(default_factory=list)

    def Process(self, *, name: str, **_) -> Process:  # noqa: N802 - as in multiprocessing
        self.made.append(Process(name, self.ends.pop(0) if self.ends else None))
        return self.made[-1]

    def RawValue(self, _: str, value: int) -> SimpleNamespace:  # noqa: N802 - the same
        return SimpleNamespace(value=value)


@dataclass
class Group:
    """Stands in for a process that follows many versions: its test says what comes of each."""

    process: Process = field(default_factory=lambda: Process("together"))
    started: dict[tuple[str, int], float] = field(default_factory=dict)
    given: list[tuple[str, int, bool]] = field(default_factory=list)
    says: list[tuple[tuple[str, int], int | None]] = field(default_factory=list)
    stuck: tuple[str, int] | None = None
    empty_since: float = 1e9
    began: frozenset[tuple[str, int]] = frozenset()

    def follow(self, key: tuple[str, int], *, late: bool, newer: bool) -> None:
        self.given.append((*key, late))
        self.started[key] = 0.0

    def heard(self) -> list[tuple[tuple[str, int], float, int | None]]:
        found = [(key, self.started.pop(key), code) for key, code in self.says]
        self.says = []
        if self.process.exitcode is not None:
            found += [(key, at, self.process.exitcode) for key, at in self.started.items()]
            self.started = {}
        return found

    def end_if_stuck(self) -> tuple[str, int] | None:
        if self.stuck is not None:
            self.process.exitcode = -9
        return self.stuck


@pytest.fixture
def host(shop, monkeypatch):
    """A host of the shop's versions, its processes, and a clock that stops it after a while."""
    shop.ok("rebuild", "--blue-green")
    clock, processes, groups = Clock(), Processes(), []
    monkeypatch.setattr(module, "time", clock)
    # The path of the tests' own process stays as it is.
    monkeypatch.setattr(module, "ImportPath", lambda _: SimpleNamespace(renew=lambda: None))
    monkeypatch.setattr(module, "Together", lambda *_: groups.append(Group()) or groups[-1])

    def make(until_caught_up: bool = False, isolate: bool = True) -> SimpleNamespace:
        shop.configure(isolate=isolate)
        host = Host(
            load_config(shop.project.folder / "esops.toml"), [], GlobalOptions(), until_caught_up
        )
        host._context = processes
        return SimpleNamespace(host=host, clock=clock, processes=processes, groups=groups)

    return make


def run(made: SimpleNamespace, seconds: float) -> None:
    """Let it run so long."""
    stop = threading.Event()
    ends = made.clock.now + seconds

    def wait(timeout: float) -> bool:
        made.clock.sleep(timeout)
        if made.clock.now >= ends:
            stop.set()
        return stop.is_set()

    made.host.run(SimpleNamespace(is_set=stop.is_set, wait=wait))


def test_each_live_version_has_one_process(host, shop):
    shop.ok("rebuild", "--blue-green")
    made = host()
    run(made, 10)
    assert [each.name for each in made.processes.made] == ["carts v1", "carts v2"]
    assert all(each.started and each.terminated for each in made.processes.made)


def test_one_that_fails_is_started_again_ever_more_seldom(host):
    made = host()
    made.processes.ends = [3] * 50
    run(made, 60)
    assert len(made.processes.made) == 5  # after 2, 4, 8, 16 and 32 seconds


def test_one_that_ends_well_is_not_started_again_once_caught_up(host):
    made = host(until_caught_up=True)
    made.processes.ends = [DONE]
    run(made, 200)
    assert len(made.processes.made) == 1
    assert [each.exit_code for each in made.host.ended] == [0]
    assert made.clock.slept < 1


def test_one_that_fails_ends_a_run_until_caught_up_with_its_code(host):
    made = host(until_caught_up=True)
    made.processes.ends = [6]
    run(made, 200)
    assert [each.exit_code for each in made.host.ended] == [6]
    assert len(made.processes.made) == 1


def test_a_version_that_comes_while_it_runs_is_followed(host, shop):
    made = host()
    at(made, (1, lambda: shop.ok("rebuild", "--blue-green")))
    run(made, 10)
    assert [each.name for each in made.processes.made] == ["carts v1", "carts v2"]


def test_a_projection_that_is_not_there_is_a_mistake(shop):
    with pytest.raises(UsageError):
        Host(load_config(shop.project.folder / "esops.toml"), ["nope"], GlobalOptions(), True)


def at(made: SimpleNamespace, *moments) -> None:
    """Do something at so many seconds after the start, each once."""
    waiting = [(made.clock.now + seconds, what) for seconds, what in moments]

    def asleep(_: float) -> None:
        while waiting and made.clock.now >= waiting[0][0]:
            waiting.pop(0)[1]()

    made.clock.asleep = asleep


def test_folds_share_a_process(host, shop):
    shop.ok("rebuild", "--blue-green")
    made = host(isolate=False)
    run(made, 10)
    assert [group.given for group in made.groups] == [[("carts", 1, False), ("carts", 2, False)]]
    assert made.groups[0].process.terminated
    assert made.processes.made == []


def test_a_new_version_is_offered_to_the_process_that_loaded_code_last(host, shop):
    made = host(isolate=False)
    at(made, (1, lambda: shop.ok("rebuild", "--blue-green")))
    run(made, 10)
    assert [group.given for group in made.groups] == [[("carts", 1, False), ("carts", 2, True)]]


def test_what_it_declines_is_followed_by_a_new_process(host, shop):
    made = host(isolate=False)
    at(
        made,
        (1, lambda: shop.ok("rebuild", "--blue-green")),
        (5, lambda: made.groups[0].says.append((("carts", 2), None))),
    )
    run(made, 10)
    assert [group.given for group in made.groups] == [
        [("carts", 1, False), ("carts", 2, True)],
        [("carts", 2, False)],
    ]
    assert made.groups[0].process.exitcode == DONE, "it ended only with all"


def test_one_that_fails_is_started_again_in_a_process_that_loads_its_code_anew(host, shop):
    shop.ok("rebuild", "--blue-green")
    made = host(isolate=False)
    at(made, (1, lambda: made.groups[0].says.append((("carts", 2), 6))))
    run(made, 10)
    assert [group.given for group in made.groups] == [
        [("carts", 1, False), ("carts", 2, False)],
        [("carts", 2, False)],
    ]


def test_all_of_a_process_that_was_killed_are_started_again_together(host, shop):
    shop.ok("rebuild", "--blue-green")
    made = host(isolate=False)

    def kill() -> None:
        made.groups[0].process.exitcode = -9

    at(made, (1, kill))
    run(made, 10)
    assert [group.given for group in made.groups] == [
        [("carts", 1, False), ("carts", 2, False)]
    ] * 2


def test_the_projection_of_one_that_holds_up_the_others_gets_processes_of_its_own(host, shop):
    shop.ok("rebuild", "--blue-green")
    made = host(isolate=False)

    def hang() -> None:
        made.groups[0].stuck = ("carts", 1)

    at(made, (1, hang))
    run(made, 10)
    assert len(made.groups) == 1
    assert sorted(each.name for each in made.processes.made) == ["carts v1", "carts v2"]


def test_until_caught_up_each_version_has_a_process(host):
    made = host(until_caught_up=True, isolate=False)
    made.processes.ends = [DONE]
    run(made, 200)
    assert len(made.processes.made) == 1
    assert made.groups == []
