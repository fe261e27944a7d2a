"""When doctor says that a server's clock differs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from esops.health.stores import _clock


def test_the_time_that_an_answer_takes_is_no_difference():
    asked = datetime(2026, 1, 1, tzinfo=UTC)
    answered = asked + timedelta(seconds=30)
    assert [*_clock("store shop", asked + timedelta(seconds=2), asked, answered)] == []
    for clock in (asked - timedelta(seconds=6), answered + timedelta(seconds=6)):
        (found,) = _clock("store shop", clock, asked, answered)
        assert " 6 s apart" in found.message
