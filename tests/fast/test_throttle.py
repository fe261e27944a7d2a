"""Rates, niceness, pauses and loads, with time that is faked."""

from __future__ import annotations

import pytest

from esops.errors import Stopped
from esops.running import throttle as module
from esops.running.control import request
from esops.running.throttle import Limits, Throttle
from tests.fast.clock import Clock

UNLIMITED = Limits()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def open_throttle(dsn):
    opened = []

    def make(limits: Limits = UNLIMITED, **options) -> Throttle:
        opened.append(Throttle(dsn, "carts", limits, **options))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def test_limits_read_as_the_options_that_set_them():
    assert str(Limits(max_rate=8000.0, max_lag_bytes=100_000_000, nice=0.5)) == (
        "--max-rate 8000 --max-lag-bytes 100000000 --nice 0.5".replace(" --", ", --")
    )
    assert str(UNLIMITED) == ""


def test_a_rate_is_kept_over_many_batches(open_throttle, clock):
    throttle = open_throttle(Limits(max_rate=100))
    began = clock.now
    for _ in range(10):
        throttle.wait()
        throttle.spend(50)
    assert clock.now - began == pytest.approx(500 / 100, abs=0.2)


def test_a_share_of_the_rate_is_what_one_of_several_may_take(open_throttle, clock):
    throttle = open_throttle(Limits(max_rate=100), share=0.5)
    throttle.wait()
    throttle.spend(100)
    assert clock.slept == pytest.approx(2.0, abs=0.2)


def test_no_burst_follows_a_time_of_nothing_to_do(open_throttle, clock):
    throttle = open_throttle(Limits(max_rate=100))
    throttle.spend(100)
    clock.now += 3_600
    before = clock.slept
    throttle.spend(500)
    assert clock.slept - before >= 3.9


def test_without_limits_nobody_rests(open_throttle, clock):
    throttle = open_throttle()
    throttle.wait()
    throttle.spend(1_000_000)
    assert clock.slept == 0


def test_niceness_rests_so_many_times_as_long_as_it_works(open_throttle, clock):
    throttle = open_throttle(Limits(nice=2.0))
    throttle.wait()
    clock.now += 0.5
    throttle.spend(10)
    assert clock.slept == pytest.approx(1.0, abs=0.11)


def test_paused_from_another_terminal_and_resumed(open_throttle, clock, connection):
    throttle = open_throttle()
    assert not throttle.holds()
    request(connection, "carts", paused=True)
    clock.now += 1
    assert throttle.holds()

    def resume(_: float) -> None:
        if clock.slept > 60:
            request(connection, "carts", paused=False)

    clock.asleep = resume
    throttle.wait()
    assert 60 < clock.slept < 62
    # A rebuild counts what it worked.
    assert throttle.take_waited() == pytest.approx(clock.slept, abs=0.2)
    throttle.wait()
    assert throttle.take_waited() == 0.0


def test_what_other_processes_waited_for_counts_as_waited(open_throttle, clock, connection):
    throttle = open_throttle()
    for paused in (False, True, True, False, False):
        request(connection, "carts", paused=paused)
        clock.now += 1
        assert (throttle.others_wait() is not None) is paused
    assert throttle.take_waited() == pytest.approx(2.0, abs=0.2)


def test_stopped_while_it_is_paused(open_throttle, clock, connection):
    asked = []
    clock.asleep = asked.append
    throttle = open_throttle(stop=lambda: len(asked) > 3)
    request(connection, "carts", paused=True)
    with pytest.raises(Stopped):
        throttle.wait()
    assert throttle.take_waited() == pytest.approx(clock.slept, abs=0.2)


def test_a_rate_is_lifted_while_it_rests(open_throttle, clock, connection):
    throttle = open_throttle(Limits(max_rate=1))

    def lift(_: float) -> None:
        request(connection, "carts", limits={"max_rate": 1_000_000})

    clock.asleep = lift
    throttle.spend(1_000)
    assert clock.slept < 2
