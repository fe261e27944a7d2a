"""The how-to "add a store", followed to the letter: its files are written, its package installed, its
commands run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-a-store.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
EXECUTABLES = Path(sys.executable).parent


def blocks(heading: str) -> list[tuple[str, str, str]]:
    """The blocks of a section: language, title, content."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return BLOCK.findall(section)


def install(folder: Path) -> None:
    """What `pip install -e .` does of consequence here: entry points, beside the modules."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    name, version = project["name"].replace("-", "_"), project["version"]
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {version}\n"
    )
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{key} = {value}" for key, value in points.items()))
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def follow(heading: str, folder: Path, **environment: str) -> dict[str, str]:
    """Write the files and run the commands; returns what each command printed."""
    found = blocks(heading)
    for _, title, content in found:
        if title:
            (folder / title).write_text(content, encoding="utf-8")
    environ = {
        **os.environ,
        **environment,
        "PYTHONPATH": str(folder),
        "PATH": f"{EXECUTABLES}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
        # pytest closes the folder that all its runs share to other users; an embedded server that
        # starts at that moment, as a user of its own, would not get to its data.
        "PYTEST_DEBUG_TEMPROOT": str(folder),
    }
    printed: dict[str, str] = {}
    for line in (
        line for language, _, text in found if language == "sh" for line in text.split("\n")
    ):
        if line.startswith("pip install "):
            install(folder)
        elif line:
            done = subprocess.run(
                shlex.split(line),
                cwd=folder,
                env=environ,
                capture_output=True,
                text=True,
                timeout=240,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            printed[line] = done.stdout
    return printed


def test_a_layout_as_the_page_says(tmp_path, connection, dsn):
    connection.execute(
        next(
            text
            for _, title, text in blocks("A layout in a package of your own")
            if title == "journal.sql"
        )
    )
    printed = follow("A layout in a package of your own", tmp_path, DATABASE_URL=dsn)
    assert printed["esops events --stream cart-1"].count("cart-1") == 2
    assert "journal" in printed["esops status"]


@pytest.mark.thorough  # tests/contract/test_plugin.py has a store in a package, too
@pytest.mark.slow
def test_a_store_as_the_page_says(tmp_path):
    printed = follow("Another kind of store", tmp_path)
    assert re.search(r"\d+ passed", printed["pytest -q test_esops_lines.py"])
    assert "skipped" not in printed["pytest -q test_esops_lines.py"]
    assert "placed" in printed["esops events --stream order-1"]
    assert "orders" in printed["esops status"]
