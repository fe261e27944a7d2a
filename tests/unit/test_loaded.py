"""Whether a process notices that it has loaded other code than is there now."""

from __future__ import annotations

import importlib
import sys
import time
import zipfile

import pytest

from esops.config import load_config
from esops.running import import_path
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


# -- what takes the place of a module is there before the process begins


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """A folder with modules in `site` and `site.egg`, others of the same names in `later` and
    `later.egg`, and the files of a process that imports modules from now on.
    """
    (tmp_path / "esops.toml").write_text('[stores.s]\ndsn = "host=nowhere"\n')
    (tmp_path / "before").mkdir()
    for name in ("site", "later"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "watched_rules.py").write_text(f"FROM = {name!r}\n")
        with zipfile.ZipFile(tmp_path / f"{name}.egg", "w") as egg:
            egg.writestr("zipped_rules.py", f"FROM = {name!r}\n")
    # A folder of packages that are installed, such as site-packages.
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "some.pth").write_text(str(tmp_path / "site") + "\n")
    (tmp_path / "sitecustomize.py").write_text(
        f"import site\nsite.addsitedir({str(tmp_path / 'packages')!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    own = [str(tmp_path / name) for name in ("before", "site.egg")]
    monkeypatch.setattr(sys, "path", [*own, *sys.path, *import_path.of_new_interpreter()])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    time.sleep(CLOCK)
    files = LoadedFiles(load_config(tmp_path / "esops.toml"))
    files.watch()
    time.sleep(CLOCK)
    yield tmp_path, files
    for name in ("watched_rules", "zipped_rules"):
        sys.modules.pop(name, None)


def _take_the_place(folder, name):
    (folder / name).rename(folder / f"former_{name}")
    (folder / name.replace("site", "later")).rename(folder / name)


def test_a_folder_that_is_renamed_right_after_a_module_was_imported_is_seen(watching):
    """Such as by the first event of a fold: nobody has looked at it since."""
    folder, files = watching
    assert importlib.import_module("watched_rules").FROM == "site"
    _take_the_place(folder, "site")
    assert files.changed()


def test_an_egg_that_another_one_takes_the_place_of_is_seen(watching):
    folder, files = watching
    assert importlib.import_module("zipped_rules").FROM == "site"
    assert not files.changed()
    _take_the_place(folder, "site.egg")
    assert files.changed()


def test_a_file_that_comes_before_the_one_that_was_imported_is_seen(watching):
    folder, files = watching
    importlib.import_module("watched_rules")
    (folder / "later" / "watched_rules.py").rename(folder / "before" / "watched_rules.py")
    assert files.changed()


def test_another_path_of_a_new_interpreter_is_seen(watching):
    """As after `pip install -e` of another release: no file that was loaded has changed."""
    folder, files = watching
    assert importlib.import_module("watched_rules").FROM == "site"
    (folder / "packages" / "some.pth").write_text(str(folder / "later") + "\n")
    assert files.changed()


def test_a_link_by_which_the_configuration_was_named_is_seen_where_it_is_moved(tmp_path):
    for number in (1, 2):
        (tmp_path / f"release_{number}").mkdir()
        (tmp_path / f"release_{number}" / "esops.toml").write_text(
            '[stores.s]\ndsn = "host=nowhere"\n'
        )
    (tmp_path / "current").symlink_to("release_1")
    config = load_config(tmp_path / "current" / "esops.toml")
    (tmp_path / "next").symlink_to("release_2")
    (tmp_path / "next").rename(tmp_path / "current")
    # Also where that was before anything was noted.
    assert LoadedFiles(config).changed()
