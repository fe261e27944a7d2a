"""`esops demo`, as a new user runs it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_the_tour_ends_with_nothing_wrong_twice_in_a_row(project):
    for _ in range(2):
        figures = project.ok("demo", "--output", "json", timeout=180).json
        assert (figures["failed_reads"], figures["steps_back"], figures["wrong_carts"]) == (0, 0, 0)
        assert figures["events_written"] > 100
        assert figures["reads"] > 500
        assert not (project.folder / ".esops-demo").exists()


def test_up_status_down(project):
    assert project.run("demo", "status").code == 1
    project.ok("demo", "up", timeout=180)
    try:
        status = project.ok("demo", "status", "--output", "json").json
        assert status["running"] == {"postgres": True, "esops run": True, "writer": True}
        busy = project.run("demo", "up")
        assert (busy.code, "is running already" in busy.err) == (4, True)
        project.folder /= ".esops-demo"
        shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
        assert shown["versions"][0]["state"] == "active"
        project.folder = project.folder.parent
    finally:
        project.ok("demo", "down")
    assert project.run("demo", "status").code == 1
    assert "no demo here" in project.ok("demo", "down").out
