"""The tests' own node keeps a whole append or none of it, as a real node keeps its transactions."""

from __future__ import annotations

import pytest

from tests.eventstoredb_server.storage import NO_STREAM, Proposed, Storage


@pytest.mark.parametrize("kept", [0, 1, 100, -2])
def test_an_append_that_was_cut_is_not_there_and_can_be_asked_for_again(tmp_path, kept):
    path = tmp_path / "log"
    before = Storage(path)
    size = path.stat().st_size
    events = [Proposed("added", b"1"), Proposed("added", b"2")]
    before.append("cart-1", NO_STREAM, events)
    whole = path.read_bytes()
    path.write_bytes(whole[: size + kept] if kept >= 0 else whole[:kept])

    after = Storage(path)
    assert after.stream("cart-1") is None
    assert after.append("cart-1", NO_STREAM, events).revision == 1
    assert Storage(path).stream("cart-1").last == 1
