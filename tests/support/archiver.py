"""Runs of a policy as processes that begin at once: a process that has imported all of esops, and
forks for each run.

    python -m tests.support.archiver esops.toml POLICY

reads a line for each run: `go`, or `kill N before|after` to kill itself with -9 at its Nth write to
repository or store. It answers with the
process id, and with `ended CODE`.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def main(path: str, policy: str) -> None:
    import structlog

    from esops.archive import run as runs
    from esops.archive_format.repository import Repository
    from esops.config import load_config
    from esops.errors import EsopsError
    from esops.stores.postgres.archiving import StreamArchiver

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    def work(order: dict[str, Any]) -> int:
        if order.get("kill"):
            count = itertools.count(1)
            for owner, name in (
                (Repository, "put"),
                (Repository, "delete"),
                (StreamArchiver, "remove"),
            ):
                setattr(owner, name, deadly(getattr(owner, name), count, order))
        try:
            outcome = runs.run(
                load_config(Path(path)), policy, runs.RunRequest(despite_checkpoints=True)
            )
        except EsopsError as error:
            print(json.dumps({"error": error.message}), flush=True)
            return error.exit_code
        print(
            json.dumps(
                {"state": outcome.state, "problems": outcome.problems, "removed": outcome.removed}
            ),
            flush=True,
        )
        return 0

    def deadly(call, count, order):
        def at_last(*arguments, **named):
            number = next(count)
            if number == order["kill"] and order["when"] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **named)
            if number == order["kill"]:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return at_last

    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(work(json.loads(line)))
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code}), flush=True)


class Archiver:
    """A context with such a process."""

    def __init__(self, config: Path, policy: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.archiver", str(config), policy],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def begin(self, **order) -> int:
        """Begin a run; its process."""
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        self.told: list[dict] = []
        while "pid" not in (told := json.loads(self.process.stdout.readline())):
            self.told.append(told)
        return told["pid"]

    def end(self) -> tuple[int, dict]:
        """Wait for its end; exit code (negative: the signal) and what it told."""
        while "code" not in (told := json.loads(self.process.stdout.readline())):
            self.told.append(told)
        return told["code"], (self.told[-1] if self.told else {})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
