"""How events pass through the loop: in pieces, and without the garbage collector."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from esops.events import Position, RecordedEvent
from esops.running.batches import Collector, pieces, without_collector
from esops.stores.base import Batch, at_most


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


def sharing(runs: list[int]) -> list[RecordedEvent]:
    """Events of which so many share a position, one position after the other."""
    return [
        RecordedEvent(f"{at}-{n}", "s", n, Position((at,)), "t", b"{}", b"", None, "")
        for at, number in enumerate(runs, 1)
        for n in range(number)
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_a_piece_ends_where_a_position_ends(runs: list[int], size: int) -> None:
    events = sharing(runs)
    cut = list(pieces(Batch(events, Position((99,))), size))
    assert [event for part, _ in cut for event in part] == events
    assert cut[-1][1] == Position((99,))
    for (part, reached), (after, _) in pairwise(cut):
        assert part[-1].position == reached < after[0].position
        # No larger than it has to be.
        assert len([event for event in part if event.position < reached]) < size


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60))
def test_a_limited_read_ends_where_a_position_ends(runs: list[int], limit: int) -> None:
    events = sharing(runs)
    batches = iter([Batch(events, events[-1].position)])
    found = [event for batch in at_most(limit, batches) for event in batch.events]
    assert found == events[: len(found)]
    assert len(found) >= min(limit, len(events))
    assert found[-1].position not in {event.position for event in events[len(found) :]}
