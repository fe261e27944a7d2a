"""How many calls of an assistant are answered at once."""

from __future__ import annotations

import threading

import pytest


def test_a_call_that_finds_no_place_is_told_so_and_places_come_back():
    from mcp.server.mcpserver.exceptions import ToolError  # long to import

    from esops.assistants.server import answering

    places = threading.BoundedSemaphore(1)
    begun, ends = threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        ends.wait(30)
        return "done"

    def fails() -> str:
        raise OverflowError

    thread = threading.Thread(target=answering(slow, places))
    thread.start()
    begun.wait(30)
    with pytest.raises(ToolError, match="Ask again"):
        answering(slow, places)()
    ends.set()
    thread.join()
    for _ in range(2):
        with pytest.raises(ToolError, match="A defect in esops: OverflowError"):
            answering(fails, places)()
    assert answering(slow, places)() == "done"
