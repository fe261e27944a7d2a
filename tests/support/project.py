"""A folder with an esops.toml and projections, and `esops` run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.support import in_process
from tests.support.config import toml
from tests.support.waiting import DEADLINE
from tests.support.warm import Forked, Warm, running

ESOPS = Path(sys.executable).with_name("esops")
INSIDE = {"contract", "fast", "integration"}
"""Folders with tests of what a command does, and not of what becomes of its process."""


@dataclass
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Project:
    """The folder. `warm` runs the commands; without it, they are the installed one. With `inside`,
    those that end by themselves run in this process.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    warm: Warm | None = None
    inside: bool = False

    @property
    def installed(self) -> Project:
        """The same folder, with the installed command in a new interpreter each time."""
        return Project(self.folder, self.environment)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(dedent(text))
        return path

    def configure(self, **sections: dict) -> Path:
        """Write esops.toml, from sections as nested dictionaries."""
        return self.write("esops.toml", toml(sections))

    def patch(self, code: str) -> None:
        """Run this in every command before it begins: other waits, faults, and the like."""
        self.write("sitecustomize.py", code)
        path = [str(self.folder), *filter(None, [self.environment.get("PYTHONPATH")])]
        self.environment["PYTHONPATH"] = os.pathsep.join(path)

    def begin_archive(self, folder: str) -> None:
        """An archive in which a run has begun, and no more: before that, a rebuild refuses."""
        (self.folder / folder / "locks").mkdir(parents=True, exist_ok=True)
        self.write(f"{folder}/locks/begun", "")

    def command(self, *arguments: str) -> list[str]:
        return [str(ESOPS), *arguments]

    def environ(self) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PG", "ESOPS_"))
        }
        return {**kept, "COLUMNS": "120", **self.environment}

    def run(self, *arguments: str, timeout: float = DEADLINE) -> Result:
        if self.inside and in_process.possible(arguments, self.environment):
            result = Result(*in_process.run(arguments, self.folder, self.environ()))
        elif self.warm is not None:
            result = Result(*self.warm.run([*arguments], self.folder, self.environ(), timeout))
        else:
            done = subprocess.run(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environ(),
                capture_output=True,
                text=True,
                timeout=timeout,
            )
            result = Result(done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in result.err, result.err
        return result

    def python(self, program: str) -> str:
        """What a program prints that runs in the folder, in an interpreter of its own."""
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env=self.environ(),
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def ok(self, *arguments: str, timeout: float = DEADLINE) -> Result:
        result = self.run(*arguments, timeout=timeout)
        assert result.code == 0, f"exit {result.code}\n{result.out}\n{result.err}"
        return result

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen | Forked:
        """Start a command; `options` are those of Popen, and ask for the installed one."""
        if self.warm is not None and not options:
            return self.warm.start([*arguments], self.folder, self.environ())
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )


@pytest.fixture(scope="session")
def warm():
    warm = Warm()
    running.append(warm)
    yield warm
    running.remove(warm)
    warm.close()


@pytest.fixture
def project(tmp_path, request):
    """Commands are run by a process that forks; in INSIDE, those that end by themselves run in the
    tests' own one (see tests/support/in_process.py), unless a test is marked `own_process`. Those
    of a test that is marked `installed` are the installed command, in a new interpreter each time.
    """
    if request.node.get_closest_marker("installed") is not None:
        return Project(tmp_path)
    room = request.node.path.parent.name
    inside = room in INSIDE and request.node.get_closest_marker("own_process") is None
    return Project(tmp_path, warm=request.getfixturevalue("warm"), inside=inside)
