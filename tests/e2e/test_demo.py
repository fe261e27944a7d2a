"""`esops demo`, as a new user runs it."""

from __future__ import annotations

import pytest

from tests.support.folders import server_folder
from tests.support.project import Project
from tests.support.soak import rounds
from tests.support.waiting import DEADLINE

SHORT, HISTORY = 2_000, rounds(20_000, 200_000)
"""Events that are there at the beginning: for `up` and `down`, and for the tour."""
pytestmark = [pytest.mark.slow, pytest.mark.installed]


@pytest.fixture
def project():
    """In a folder where the demo's server can run."""
    with server_folder() as folder:
        project = Project(folder)
        project.patch(f"import esops.demo.sandbox as s\ns.HISTORY = {SHORT}\n")
        yield project


@pytest.mark.thorough
@pytest.mark.timeout(rounds(400, 900))
def test_the_tour_ends_with_nothing_wrong(project):
    project.patch(f"import esops.demo.sandbox as s\ns.HISTORY = {HISTORY}\n")
    for _ in range(rounds(1, 5)):
        figures = project.ok("demo", "--output", "json", timeout=2 * DEADLINE).json
        assert (figures["failed_reads"], figures["steps_back"], figures["wrong_carts"]) == (0, 0, 0)
        assert figures["events_written"] > 100
        assert figures["reads"] > 100
        assert not (project.folder / ".esops-demo").exists()


def test_up_status_down(project, warm):
    installed, project = project, Project(project.folder, project.environment, warm=warm)
    assert project.run("demo", "status").code == 1
    installed.ok("demo", "up")
    try:
        status = project.ok("demo", "status", "--output", "json").json
        assert status["running"] == {"postgres": True, "esops run": True, "writer": True}
        busy = project.run("demo", "up")
        assert (busy.code, "is running already" in busy.err) == (4, True)
        project.folder /= ".esops-demo"
        shown = project.ok("projection", "show", "cart_summary", "--output", "json").json
        assert shown["versions"][0]["state"] == "active"
        assert project.ok("demo", "status", "--output", "json").json["up"]
        project.folder = project.folder.parent
    finally:
        installed.ok("demo", "down")
    assert project.run("demo", "status").code == 1
    assert "no demo here" in project.ok("demo", "down").out
