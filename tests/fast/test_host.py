"""`esops run` looks after its processes: which it starts, and when it starts one again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from esops.config import load_config
from esops.errors import UsageError
from esops.running import host as module
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
        self.terminated, self.exitcode = True, 0

    def join(self, _: float) -> None: ...


@dataclass
class Processes:
    """What was started, in order; `ends` gives each its exit code, in turn."""

    ends: list[int | None] = field(default_factory=list)
    made: list[Process] = field(default_factory=list)

    def Process(self, *, name: str, **_) -> Process:  # noqa: N802 - as in multiprocessing
        self.made.append(Process(name, self.ends.pop(0) if self.ends else None))
        return self.made[-1]


@pytest.fixture
def host(shop, monkeypatch):
    """A host of the shop's versions, its processes, and a clock that stops it after a while."""
    shop.ok("rebuild", "--blue-green")
    clock, processes = Clock(), Processes()
    monkeypatch.setattr(module, "time", clock)

    def make(until_caught_up: bool = False) -> SimpleNamespace:
        host = Host(
            load_config(shop.project.folder / "esops.toml"), [], GlobalOptions(), until_caught_up
        )
        host._context = processes
        return SimpleNamespace(host=host, clock=clock, processes=processes)

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
    made.processes.ends = [0]
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
    made.clock.asleep = lambda _: (
        shop.ok("rebuild", "--blue-green") if len(made.processes.made) == 1 else None
    )
    run(made, 10)
    assert [each.name for each in made.processes.made] == ["carts v1", "carts v2"]


def test_a_projection_that_is_not_there_is_a_mistake(shop):
    with pytest.raises(UsageError):
        Host(load_config(shop.project.folder / "esops.toml"), ["nope"], GlobalOptions(), True)
