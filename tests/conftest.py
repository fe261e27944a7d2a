"""One embedded Postgres for the whole run, a fresh database for each test, and the installed
`esops` to drive.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import psycopg
import pytest
from hypothesis import HealthCheck, settings

from esops.demo.server import EmbeddedServer
from tests.support.browser import browser  # noqa: F401 - a fixture
from tests.support.esdb import Nodes
from tests.support.warm import Warm

settings.register_profile(
    "esops", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("esops")

DUMPS = Path(__file__).parent / "fixtures"
ESOPS = Path(sys.executable).with_name("esops")
_numbers = itertools.count(1)


def pytest_collection_modifyitems(items):
    """The longest first, so that the two processes that share the tests end at about the same time."""

    def long_first(item) -> int:
        if "faults" in item.path.parts:
            return 0
        return 1 if item.get_closest_marker("slow") or item.path.name in LONG else 2

    items.sort(key=long_first)


LONG = (
    "test_demo.py",
    "test_server_projections.py",
    "test_settled_reads.py",
    "test_docs_commands.py",
    "test_real_writers.py",
)


@pytest.fixture(scope="session")
def server():
    # Not in pytest's own folder: a path to a Unix socket has to be short, and the server's user has
    # to get there.
    folder = Path(tempfile.mkdtemp(prefix="esops-test-"))
    folder.chmod(0o755)
    server = EmbeddedServer(
        folder / "pg", {"fsync": "off", "max_connections": "100", "log_min_messages": "fatal"}
    )
    server.start()
    yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_server():
    """A server of the test's own, to be restarted and crashed."""
    folder = Path(tempfile.mkdtemp(prefix="esops-test-"))
    folder.chmod(0o755)
    server = EmbeddedServer(folder / "pg").start()
    yield server
    server.remove()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def node():
    """A node of EventStoreDB (the one in tests/) with the system's projections running, shared by
    the whole run.
    """
    with Nodes() as nodes:
        yield nodes


@pytest.fixture(scope="session")
def old_node():
    """One that behaves like 21.10: no "caught up", a checkpoint past the end of the log, no
    projections running.
    """
    with Nodes("--version", "21.10", "--no-system-projections") as nodes:
        yield nodes


@pytest.fixture
def dsn(server):
    name = f"test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    yield server.dsn(name)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def connection(dsn):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TIME ZONE 'UTC'")
        yield connection


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass
class Project:
    """A folder with an esops.toml and projections, and the installed command run in it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    warm: Warm | None = None
    """Runs commands, where a test does not ask for the installed one."""

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(dedent(text))
        return path

    def command(self, *arguments: str) -> list[str]:
        return [str(ESOPS), *arguments]

    def environ(self) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PG", "ESOPS_"))
        }
        return {**kept, "COLUMNS": "120", **self.environment}

    def run(self, *arguments: str, timeout: float = 120) -> Result:
        # What is on PYTHONPATH may change what is imported.
        if self.warm is not None and "PYTHONPATH" not in self.environment:
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

    def ok(self, *arguments: str, timeout: float = 120) -> Result:
        result = self.run(*arguments, timeout=timeout)
        assert result.code == 0, f"exit {result.code}\n{result.out}\n{result.err}"
        return result

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="session")
def warm():
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture
def project(tmp_path, request):
    """In e2e, with the installed command; elsewhere commands that a test waits for are run by a
    process that forks.
    """
    return Project(
        tmp_path, warm=None if "e2e" in request.path.parts else request.getfixturevalue("warm")
    )


@pytest.fixture(scope="session")
def dumps():
    """Databases that the real libraries wrote, and what is true of each; see the README there."""
    return DUMPS
