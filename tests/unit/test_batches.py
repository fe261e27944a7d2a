"""The garbage collector, which is kept out of the loop over events and runs now and then."""

from __future__ import annotations

import gc
import weakref

from esops.running.batches import Collector, without_collector


class Cyclic:
    """What user code might make."""

    def __init__(self) -> None:
        self.own = self


def cycles(count: int) -> weakref.ref[Cyclic]:
    made = [Cyclic() for _ in range(count)]
    return weakref.ref(made[0])


def test_cycles_of_user_code_are_collected_while_nothing_is_committed():
    collector = Collector()
    with without_collector():
        first = cycles(20_000)
        collector.applied(499_999)
        assert first() is not None
        collector.applied(1)
        assert first() is None
        second = cycles(20_000)
        collector.applied(500_000)
        assert second() is None
        assert not gc.isenabled()


def test_where_there_are_none_the_collector_runs_ever_more_seldom():
    collector = Collector()
    gc.collect()
    gc.freeze()  # what other tests have left is not to be looked through
    with without_collector():
        for due in (500_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 8_000_000):
            gc.collect()
            one = cycles(1)
            collector.applied(due - 1)
            assert one() is not None
            collector.applied(1)
            assert one() is None
        many = cycles(20_000)
        collector.applied(8_000_000)
        assert many() is None
        again = cycles(20_000)
        collector.applied(500_000)
        assert again() is None
