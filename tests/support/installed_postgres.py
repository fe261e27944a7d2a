"""Run a command on the Postgres servers that are installed on this machine, one after the other:

    python -m tests.support.installed_postgres -- python -m pytest -n 0 tests/contract

Each version in /usr/lib/postgresql gets a cluster of its own in a temporary folder, on a spare
port, and ESOPS_TEST_PG_DSN names it. Ends with the first failure; does nothing where none is
installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.folders import server_folder

INSTALLED = Path("/usr/lib/postgresql")
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "wal_level": "logical",
    "listen_addresses": "",
}


def versions() -> list[Path]:
    """The folders of programs, the oldest version first."""
    return sorted(INSTALLED.glob("*/bin"), key=lambda path: int(path.parent.name))


@contextmanager
def cluster(programs: Path) -> Iterator[str]:
    """A cluster that runs, and how to connect to it as its superuser."""
    with server_folder() as folder:
        yield from _cluster(programs, folder)


def _cluster(programs: Path, folder: Path) -> Iterator[str]:
    as_user = _as_postgres(folder)
    data = folder / "data"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    subprocess.run(
        [*as_user, programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E",
         "UTF8", "--locale=C"],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    settings = "".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    subprocess.run(
        [*as_user, "tee", "-a", data / "postgresql.conf"],
        input=settings, text=True, check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    control = [*as_user, programs / "pg_ctl", "-w", "-D", data]
    subprocess.run(
        [*control, "-l", folder / "log", "-o", f"-p {port} -k {folder}", "start"],
        check=True, stdout=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip
    try:
        yield f"host={folder} port={port} user=postgres dbname=postgres"
    finally:
        subprocess.run(
            [*control, "-m", "immediate", "stop"],
            check=False, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip


def _as_postgres(folder: Path) -> list[str]:
    """Postgres refuses root: what to put before a command to run it as somebody else."""
    if os.geteuid() != 0:
        return []
    shutil.chown(folder, "postgres")
    return ["runuser", "-u", "postgres", "--"]


def main(command: list[str]) -> int:
    if not versions():
        print(f"no Postgres is installed in {INSTALLED}: nothing to do")
    for programs in versions():
        with cluster(programs) as dsn:
            print(f"on Postgres {programs.parent.name}:", *command, flush=True)
            done = subprocess.run(
                command, env={**os.environ, "ESOPS_TEST_PG_DSN": dsn}, check=False
            )
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main([each for each in sys.argv[1:] if each != "--"]))
