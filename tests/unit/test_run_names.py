"""A policy's newest run is the last one by name, whatever the clocks say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from esops.archive.unfinished import unfinished_run
from esops.archive_format.repository import Repository
from esops.archive_format.runs import RUN_TIME, Catalog, Run
from esops.settings import ArchiveSettings


@pytest.fixture
def catalog(tmp_path):
    return Catalog(Repository(ArchiveSettings(repository=str(tmp_path))))


def began(catalog, name="old"):
    """A run that has noted its plan."""
    run = catalog.new_run(name)
    run.note("plan.json", {"policy": f"main/{name}", "store": "s"})
    return run


def test_runs_of_one_second_are_in_the_order_in_which_they_began(catalog):
    runs = [began(catalog).name for _ in range(12)]
    assert runs == sorted(runs)
    assert began(catalog, "other").name.startswith(f"{datetime.now(UTC):%Y%m%dT%H}")


def test_an_unfinished_run_is_found_behind_one_that_a_clock_ahead_has_named(catalog):
    ahead = datetime.now(UTC) + timedelta(hours=1)
    done = Run(catalog.repository, f"{ahead:{RUN_TIME}}-old-ffffff")
    done.note("plan.json", {"policy": "main/old", "store": "s"})
    done.note("done.json", {})
    killed = began(catalog)
    found = unfinished_run(catalog, "main/old")
    assert found is not None
    assert found.run.name == killed.name


def test_a_folder_that_is_no_run_has_no_part_in_it(catalog):
    catalog.repository.put("runs/somebodys-old-copy/note.txt", b"kept for later")
    assert began(catalog).name.endswith(tuple("0123456789abcdef"))
    assert unfinished_run(catalog, "main/old") is not None
