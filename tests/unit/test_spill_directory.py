"""A directory of a spill is opened again for that spill alone, and by one process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from esops.events import Position
from esops.readmodel.spills import Spill
from esops.running.spill.directory import DirectoryOwner, SpillDirectory
from esops.running.spill.frames import DamagedSpill
from esops.running.spill.shown import ShownSoFar

LIMIT = 1 << 30
SHOWN = ShownSoFar({"n": "int"}, [(Position((1,)), {"n": "float"})])


@pytest.fixture
def spill(tmp_path):
    return Spill(
        spill="mine",
        shard=None,
        host="here",
        directory=str(tmp_path / "esops-spill-mine"),
        fingerprint="f",
        fresh=True,
        until=None,
        partitions=2,
    )


@pytest.fixture
def made(spill, tmp_path):
    """It has a manifest, and its process has ended."""
    owner = DirectoryOwner("db", "carts", 1, "mine", "here")
    path = tmp_path / "esops-spill-mine"
    directory = SpillDirectory.create(path, owner, 2, LIMIT, SHOWN)
    directory.keep(Position((1,)), None, None)
    return directory


def test_another_spills_is_not_taken_for_it(spill, made):
    made.close()
    with pytest.raises(DamagedSpill, match="another spill's"):
        SpillDirectory.open(made.path, replace(spill, spill="other"), LIMIT)
    opened = SpillDirectory.open(made.path, spill, LIMIT)
    assert opened.manifest.position == Position((1,))
    assert opened.shown == SHOWN
    opened.close()


def test_one_that_a_process_works_in_is_not_opened(spill, made):
    with pytest.raises(DamagedSpill, match="another process"):
        SpillDirectory.open(made.path, spill, LIMIT)
    made.close()
