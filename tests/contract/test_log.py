"""`esops events` on every store: a stream that does not exist is an error, an empty result is not."""

from __future__ import annotations

import pytest

from esops.errors import UsageError
from esops.events import EventFilter
from esops.trace.log import LogReader, LogRequest
from tests.contract.test_archive import fill, kit

__all__ = ["kit"]


def test_a_stream_that_does_not_exist_is_an_error(kit):
    stream = next(iter(fill(kit)))
    found = list(LogReader(kit.store, LogRequest(EventFilter(stream=stream))))
    assert found
    other_types = EventFilter(types=("nosuch",), stream=stream)
    assert list(LogReader(kit.store, LogRequest(other_types))) == []
    for name in ("nosuch", "00000000-0000-4000-8000-00000000dead"):
        with pytest.raises(UsageError, match="has no stream"):
            LogReader(kit.store, LogRequest(EventFilter(stream=name)))
