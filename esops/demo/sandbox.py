"""The demo's folder: an embedded Postgres with the shop, a configuration, and the processes that
run there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg

from esops.demo import store
from esops.demo.server import EmbeddedServer
from esops.errors import Busy, UsageError

FOLDER = ".esops-demo"
HISTORY = 200_000
BUG = (
    'case "product_item_removed":\n            return {**row, **at, **changed(row, data, -1)}',
    'case "product_item_removed":\n            return {**row, **at}  # removed? forgotten',
)
READERS_QUERY = "SELECT max(position) FROM cart_summary"


@dataclass
class ShopProcess:
    """A writer or a reader of the shop. The last line of its output is a report, as JSON."""

    process: subprocess.Popen[str]

    def stop(self) -> dict[str, Any]:
        """End it and return its report."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=30)
        report: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return report


class Sandbox:
    """Everything that the demo keeps, in one folder."""

    def __init__(self, directory: Path, *, aside: bool = False) -> None:
        """Use the demo's folder in this directory; `aside` sends what commands print to stderr."""
        self._aside = aside
        # Whoever plays with it stands inside, and may ask for it there too.
        inside = directory.name == FOLDER
        self.folder = directory if inside else directory / FOLDER
        self.server = EmbeddedServer(self.folder / "pg")
        self._state = self.folder / "demo.json"
        self.history = HISTORY
        """How many events the shop has when it opens."""

    @property
    def dsn(self) -> str:
        """How to connect to the shop's database."""
        return self.server.dsn()

    def set_up(self, *, bug: bool) -> None:
        """Make the server, the shop and its history, and the configuration.

        Raises Busy if a demo is running.
        """
        if self.server.running:
            raise Busy("a demo is running already", hint="End it with: esops demo down")
        self.server.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.server.start()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            store.create(connection)
            store.generate(connection, self.history)
        toml = _file("esops.toml").replace("{dsn}", json.dumps(self.dsn))
        (self.folder / "esops.toml").write_text(toml)
        (self.folder / "cart_summary.sql").write_text(_file("cart_summary.sql"))
        self.deploy(bug=bug)

    def deploy(self, *, bug: bool) -> None:
        """Write the projection's code, with or without the mistake that the tour fixes."""
        code = _file("shop_projections.py")
        (self.folder / "shop_projections.py").write_text(code.replace(*BUG) if bug else code)

    def esops(self, *arguments: str, quiet: bool = False) -> int:
        """Run esops in the folder and return its exit code; its output goes where ours goes."""
        out = subprocess.DEVNULL if quiet else sys.stderr if self._aside else None
        errors = subprocess.DEVNULL if quiet else None
        return subprocess.run(
            [sys.executable, "-m", "esops", *arguments],
            cwd=self.folder,
            check=False,
            stdout=out,
            stderr=errors,
        ).returncode

    def start(self, who: str, *options: str) -> ShopProcess:
        """Start a writer or a reader, and wait until it is connected."""
        process = subprocess.Popen(
            [sys.executable, "-m", "esops.demo.workload", who, self.dsn, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        # It says "ready" when it is connected.
        process.stdout.readline()
        return ShopProcess(process)

    def start_detached(self, name: str, *command: str) -> int:
        """Start a Python module that outlives this process; returns its process id."""
        with (self.folder / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return process.pid

    def up(self) -> None:
        """Start the shop and leave it running: server, writer, and `esops run`.

        Raises Busy if a demo is running, and UsageError if the first build fails.
        """
        self.set_up(bug=True)
        if self.esops("rebuild", "cart_summary", "--blue-green", "--quiet", quiet=True) != 0:
            raise UsageError("the first build of the demo failed", hint=f"See {self.folder}.")
        running = {
            "esops run": self.start_detached("run", "esops", "run"),
            "writer": self.start_detached(
                "writer", "esops.demo.workload", "writer", self.dsn, "--rate", "20"
            ),
        }
        self._state.write_text(json.dumps(running))

    def down(self) -> bool:
        """Stop everything and remove the folder. Returns whether there was a demo."""
        there = self.folder.exists()
        for pid in self.running().values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        # They end by themselves; the server would otherwise cut them off, and their logs complain.
        deadline = time.monotonic() + 10
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.1)
        if there:
            self.server.remove()
            # Deepest first, so that folders are empty when their turn comes.
            for file in sorted(self.folder.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            self.folder.rmdir()
        return there

    def running(self) -> dict[str, int]:
        """The detached processes that are alive: name and process id."""
        if not self._state.exists():
            return {}
        started: dict[str, int] = json.loads(self._state.read_text())
        return {name: pid for name, pid in started.items() if _is_alive(pid)}

    def differences(self) -> tuple[int, int]:
        """Rows of the read model, and how many of them contradict the events.

        The truth comes from plain SQL over the events, not from any projection.
        """
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(_file("truth.sql").encode()).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


def _file(name: str) -> str:
    return files("esops.demo").joinpath("files", name).read_text(encoding="utf-8")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
