"""Folders for servers: in memory where there is room, since a database is some 300 files."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 4 << 30


@contextmanager
def server_folder() -> Iterator[Path]:
    """A folder that is gone at the end.

    It is not in pytest's own, which pytest closes to others whenever one of its processes starts:
    the server's user has to get there. And its name is short, as the path of a socket has to be.
    """
    roomy = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="esops-test-", dir=MEMORY if roomy else None))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
