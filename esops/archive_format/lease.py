"""Who works on a policy: a lease kept in the repository, so that it holds for every store and every
machine.

Leases are numbered, and a number is taken by a conditional create, which one writer wins; the
newest number counts. A holder writes
its lease again every few seconds. A lease that was not renewed for a while, or whose process on
this machine is gone, is passed by
taking the next number. A holder that was passed notices at its next `check` and stops; what it
wrote under its own number counts
for nothing without a manifest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from esops.archive_format.repository import Missing, Repository, Taken
from esops.errors import Busy, EsopsError, Stopped

RENEWED_EVERY = timedelta(seconds=10)
EXPIRES_AFTER = timedelta(seconds=90)


class Lease:
    """The right to work on a policy, while the context is open.

    Raises Busy where another has it.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        """Take the policy's name, with its archive's."""
        self._repository, self._folder = repository, f"locks/{name}"
        self.number = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        holder = self.holder()
        if holder is not None:
            raise Busy(
                f"{holder} works on it",
                hint="Wait for it; a lease of a process that is gone ends by itself.",
            )
        newest = self._newest()
        self.number = newest + 1
        self._since = _now()
        try:
            self._repository.put(self._path(self.number), self._content(), if_absent=True)
        except Taken:
            raise Busy(
                "another process began to work on it at this moment", hint="Wait for it."
            ) from None
        self._thread = threading.Thread(target=self._renew, name="esops-lease", daemon=True)
        self._thread.start()
        for number in range(max(1, newest - 5), newest):
            self._repository.delete(self._path(number))
        return self

    def holder(self) -> str | None:
        """Who works on it now, and since when; None where nobody does."""
        newest = self._newest()
        record = self._read(newest) if newest else None
        if record is None or record.get("released") or not _lives(record):
            return None
        return f"{record['host']}:{record['pid']}, since {record['since']},"

    def check(self) -> None:
        """Raises Stopped where another took over, since this process was not heard of for
        too long.
        """
        if self._newest() > self.number:
            raise Stopped(
                "another process took this policy over",
                hint="See that one's outcome: esops archive list",
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(EsopsError):
            self._repository.put(self._path(self.number), self._content(released=True))

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY.total_seconds()):
            with contextlib.suppress(EsopsError):  # the work itself will tell
                self._repository.put(self._path(self.number), self._content())

    def _newest(self) -> int:
        names = [entry.name.rpartition("/")[2] for entry in self._repository.entries(self._folder)]
        return max((int(name.removesuffix(".json")) for name in names), default=0)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            document = orjson.loads(self._repository.get(self._path(number)))
        except (Missing, orjson.JSONDecodeError):
            return None
        return document if isinstance(document, dict) else None

    def _content(self, *, released: bool = False) -> bytes:
        return orjson.dumps(
            {
                "host": socket.gethostname(),
                "boot": _boot(),
                "pid": os.getpid(),
                "started": _started(os.getpid()),
                "since": self._since,
                "renewed": _now(),
                "released": released,
            }
        )


def _lives(record: dict[str, Any]) -> bool:
    """Whether a holder may still be at work: of this machine by its process, else by its last sign
    of life.
    """
    if record.get("host") == socket.gethostname() and record.get("boot") == _boot():
        return _started(int(record["pid"])) == record.get("started")
    return datetime.now(UTC) - datetime.fromisoformat(record["renewed"]) < EXPIRES_AFTER


def _started(pid: int) -> str | None:
    """When a process of this machine began, so that another of the same number is not taken for it;
    None where it is gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    return None if fields[0] in ("Z", "X") else fields[19]


def _boot() -> str:
    """What tells this start of this machine (or container) from others of its name."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat()
