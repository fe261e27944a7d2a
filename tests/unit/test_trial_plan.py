"""How a projection is tried: all events come, and those of a stream in their order."""

from __future__ import annotations

from random import Random

import pytest

from esops.check.trial_plan import TRIALS, feeds, plain, with_beginning
from esops.events import Position, RecordedEvent


def events(number: int, streams: int) -> list[RecordedEvent]:
    return [
        RecordedEvent(
            str(n), f"s-{n % streams}", n // streams, Position((n,)), "x", b"{}", b"", None
        )
        for n in range(number)
    ]


@pytest.mark.parametrize("number", [1, 2, 7, 40, 700])
@pytest.mark.parametrize("trial", TRIALS)
def test_every_run_has_all_events_with_those_of_a_stream_in_order(trial, number):
    given = events(number, 3)
    for seed in range(10):
        for feed in feeds(trial, given, Random(seed)):
            parts = [[[*batch] for batch in part] for part in feed.batches()]
            order = [at for part in parts for batch in part for at in batch]
            assert sorted(order) == [*range(number)]
            assert all(part and all(part) for part in parts)
            for stream in range(3):
                own = [given[at].version for at in order if given[at].stream == f"s-{stream}"]
                assert own == sorted(own)
            if trial != "order":
                assert order == [*range(number)]
            if trial == "restart" and number >= 40:
                assert len(parts) > 3
            if trial in {"batches", "twice"} and number >= 7:
                assert len(parts[0]) > 3, "several batches"
    assert feeds("clock", given, Random(0)) == [plain(number)]


def test_the_order_between_streams_changes():
    given = events(60, 3)
    [feed] = feeds("order", given, Random(4))
    assert [*feed.order] != [*range(60)]
    begun = with_beginning(feed, 20)
    assert [*begun.order[:20]] == [*feed.order[:20]]
    assert sorted(begun.order[20:]) == [*begun.order[20:]]
    assert with_beginning(feed, 60).order == feed.order
    [batches] = feeds("batches", given, Random(4))
    sizes = with_beginning(batches, 3).parts[0]
    assert (sizes[:3], sum(sizes)) == (batches.parts[0][:3], 60)
