"""A real pgbouncer before a test's server; skips where it is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.waiting import until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def pgbouncer(dsn: str, pool_mode: str, **settings: str) -> Iterator[str]:
    """A pooler before one database; how to connect to it."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (Debian package pgbouncer)")
    server = conninfo_to_dict(dsn)
    # A path to a Unix socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="esops-bouncer-"))
    folder.chmod(0o777)
    place = " ".join(f"{key}={server[key]}" for key in ("host", "port") if server.get(key))
    lines = {
        "listen_addr": "",
        "unix_socket_dir": str(folder),
        "listen_port": "6432",
        "auth_type": "trust",
        "auth_file": str(folder / "users"),
        "pool_mode": pool_mode,
        **settings,
    }
    (folder / "users").write_text(f'"{server.get("user", "postgres")}" ""\n')
    (folder / "ini").write_text(
        f"[databases]\n* = {place}\n[pgbouncer]\n"
        + "".join(f"{key} = {value}\n" for key, value in lines.items())
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, str(folder / "ini")],
            stdout=log,
            stderr=log,
            user=_user(str(server.get("host", ""))) if os.geteuid() == 0 else None,
        )
    pooled = make_conninfo(dsn, host=str(folder), port="6432")
    try:
        until(lambda: _answers(pooled), 20)
        yield pooled
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _user(host: str) -> str:
    """pgbouncer refuses to run as root; a socket may be in a folder that only its owner enters."""
    return Path(host).owner() if host.startswith("/") else "nobody"


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError:
        return False
    return True
