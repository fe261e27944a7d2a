"""Whether a process notices that it has loaded other code than is there now."""

from __future__ import annotations

import importlib
import sys
import time

import pytest

from esops.config import load_config
from esops.running.loaded import LoadedFiles

CLOCK = 0.05
"""Seconds by which a file system's clock may be behind the process's."""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A folder with two releases of some code, and the files of a process that has loaded the first
    one by links.
    """
    (tmp_path / "esops.toml").write_text('[stores.s]\ndsn = "host=nowhere"\n')
    for number in (1, 2):
        (tmp_path / f"release_{number}").mkdir()
        (tmp_path / f"release_{number}" / "linked_rules.py").write_text(f"STEP = {number}\n")
    (tmp_path / "releases").symlink_to(".")
    (tmp_path / "current").symlink_to("releases/release_1")
    monkeypatch.syspath_prepend(str(tmp_path / "current"))
    time.sleep(CLOCK)
    files = LoadedFiles(load_config(tmp_path / "esops.toml"))
    assert not files.changed()
    time.sleep(CLOCK)
    importlib.import_module("linked_rules")
    yield tmp_path, files
    del sys.modules["linked_rules"]


def test_a_link_that_stays_is_no_change(loaded):
    _, files = loaded
    files.note()
    assert not files.changed()


@pytest.mark.parametrize("link", ["current", "releases"])
def test_a_link_that_is_moved_before_the_file_is_noted_is_seen(loaded, link):
    """Both releases are older than the process, and only the second one is ever looked at."""
    folder, files = loaded
    target = {"current": "releases/release_2", "releases": "../" + folder.name}[link]
    (folder / "next").symlink_to(target)
    (folder / "next").rename(folder / link)
    files.note()
    assert files.changed()
