"""Who works on a policy: a lease kept in the repository, so that it holds across all machines.

Leases are numbered, and the newest number counts. A process takes a number by a conditional create,
which only one can win, and renews its lease every few seconds. When a lease was not renewed for a
while, or its process has died where that can be seen, another process supersedes it by taking the
next number. A superseded holder notices at its next `check` and stops; the files that it wrote
carry its own number and do not count without a manifest.
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
from esops.archive_format.runs import LOCKS
from esops.errors import Busy, EsopsError, Stopped

RENEWED_EVERY = timedelta(seconds=10)
EXPIRES_AFTER = timedelta(seconds=90)
UNKNOWN = "unknown"
HIDDEN = "hidden"
"""In place of the start of a process that the system has, and does not show."""


class Lease:
    """The right to work on a policy, while the context is open.

    Entering it raises Busy if another process has the lease.
    """

    def __init__(self, repository: Repository, name: str) -> None:
        """`name` is `archive/policy`."""
        self.repository, self._folder = repository, f"{LOCKS}/{name}"
        self.number = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        holder = self.holder()
        if holder is not None:
            raise Busy(
                f"another process works on this policy: {holder}",
                hint="Wait until it has finished. If it died, its lease expires by itself within "
                f"{EXPIRES_AFTER.total_seconds():.0f} seconds.",
            )
        newest = self._newest()
        # Two processes may come this far at once. The conditional create below lets one of them
        # have the number.
        self.number = newest + 1
        self._since = _now()
        try:
            self.repository.put(self._path(self.number), self._content(), if_absent=True)
        except Taken:
            raise Busy(
                "another process started on this policy at the same moment",
                hint="Wait until it has finished.",
            ) from None
        self._thread = threading.Thread(target=self._renew, name="esops-lease", daemon=True)
        self._thread.start()
        # Older leases tell nothing any more. A few numbers are looked for, since a process that was
        # killed here may have left more than one.
        for number in range(max(1, newest - 5), newest):
            self.repository.delete(self._path(number))
        return self

    def holder(self) -> str | None:
        """Who works on the policy now, and since when; None if nobody does."""
        newest = self._newest()
        record = self._read(newest) if newest else None
        if record is None or record.get("released") or not _may_be_alive(record):
            return None
        return f"process {record['pid']} on {record['host']}, since {record['since']}"

    def check(self) -> None:
        """Raises Stopped if another process took over, because this one did not renew in time."""
        if self._newest() > self.number:
            raise Stopped(
                "another process took over this policy, because this one had not renewed its lease",
                hint="See what the other process did: esops archive list.",
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
        # Where this fails, the lease expires by itself; what happened before is worth more than
        # this error.
        with contextlib.suppress(EsopsError):
            self.repository.put(self._path(self.number), self._content(released=True))

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY.total_seconds()):
            with contextlib.suppress(EsopsError):  # the work itself will fail on it
                self.repository.put(self._path(self.number), self._content())

    def _newest(self) -> int:
        names = [entry.name.rpartition("/")[2] for entry in self.repository.entries(self._folder)]
        return max((int(name.removesuffix(".json")) for name in names), default=0)

    def _path(self, number: int) -> str:
        return f"{self._folder}/{number:06d}.json"

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            document = orjson.loads(self.repository.get(self._path(number)))
        except (Missing, orjson.JSONDecodeError):
            return None
        return document if isinstance(document, dict) else None

    def _content(self, *, released: bool = False) -> bytes:
        return orjson.dumps(
            {
                **this_process(),
                "since": self._since,
                "renewed": _now(),
                "released": released,
            }
        )


def this_process() -> dict[str, Any]:
    """What tells this process from all others, of any machine and time."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pids": _pids(),
        "pid": pid,
        "started": _started(pid),
    }


def is_there(process: dict[str, Any]) -> bool | None:
    """Whether a process is there still; None where that cannot be seen from here.

    That is so for another machine, for another container of this one, even where both have the
    same host name, and for a process of another user that the system hides.
    """
    here = this_process()
    if here["boot"] == UNKNOWN and Path("/proc/self/stat").exists():
        return None  # ProcSubset=pid, and other machines may have the same host name
    if any(process.get(name) != here[name] for name in ("host", "boot", "pids")):
        return None
    started = _started(int(process["pid"]))
    return None if started == HIDDEN else started == process.get("started")


def _may_be_alive(record: dict[str, Any]) -> bool:
    """Whether a holder may still be at work.

    Where its process can be seen, that tells, and elsewhere the time of its last renewal.
    """
    there = is_there(record)
    if there is not None:
        return there
    return datetime.now(UTC) - datetime.fromisoformat(record["renewed"]) < EXPIRES_AFTER


def _started(pid: int) -> str | None:
    """When a process of this machine started, as the system counts; None if it has ended.

    A process id alone is not enough: the system gives it to other processes later. HIDDEN where
    the system has a process of that id and does not show it, as with hidepid or ProtectProc.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        # Signal 0 only asks whether the process exists. A system without /proc, such as macOS,
        # tells no more than that.
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return HIDDEN if Path("/proc/self/stat").exists() else UNKNOWN
    # The fields after the name, which may itself hold spaces and brackets: the state (zombies and
    # dead processes do not work any more), and the time of the start.
    return None if fields[0] in ("Z", "X") else fields[19]


def _boot() -> str:
    """Identifies this boot of this machine, since several containers can share a host name."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return UNKNOWN


def _pids() -> str:
    """Identifies what the process ids belong to: a container counts its own ones."""
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return UNKNOWN


def _now() -> str:
    return datetime.now(UTC).isoformat()
