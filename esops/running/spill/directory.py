"""The directory of one spill: a file of events for each partition, and a manifest of what is in
them for certain.

The manifest is replaced as a whole, after everything that it names is on the disk. What is in the
files beyond it is cut off when the directory is opened again. A lock on the directory's first file
says that a process is at work in it; the kernel takes that back when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from esops.events import Position, RecordedEvent
from esops.readmodel.spills import Spill
from esops.running.spill.frames import HEADER_BYTES, DamagedSpill, events_of, header
from esops.running.spill.shown import ShownSoFar

PREFIX = "esops-spill-"
_OWNER, _MANIFEST = "owner.json", "manifest.json"
_FORMAT = 2
_RESERVE_SHARE, _RESERVE_MOST = 20, 4 << 30
"""A twentieth of the disk stays free, and at most this many bytes."""
_LEAST_ROOM = 64 << 20
"""With less room than this, or the limit where that is smaller, a spill is not worth its while."""


class NoRoom(Exception):
    """The directory, or the disk that it is on, has reached its bound."""


@dataclass(frozen=True, slots=True)
class DirectoryOwner:
    """Whose directory it is."""

    database: str
    projection: str
    version: int
    spill: str
    host: str


@dataclass(frozen=True, slots=True)
class SpillManifest:
    """What is in the files for certain."""

    position: Position | None
    """The events up to here are in them."""
    lengths: Sequence[int]
    """The bytes of each partition's file."""
    counts: Sequence[int]
    """The number of its events."""
    mark: Mapping[str, Any] | None = None
    """The store's mark at a position, and that position: what tells its log."""
    applied: Mapping[str, Any] | None = None
    """What to note of the last event when all are in the table."""

    @property
    def events(self) -> int:
        """How many events there are in all."""
        return sum(self.counts)

    @property
    def size(self) -> int:
        """How many bytes the files have in all."""
        return sum(self.lengths)


class SpillDirectory:
    """One spill's directory, which this process has locked."""

    def __init__(
        self, path: Path, manifest: SpillManifest, shown: ShownSoFar, limit: int, lock: int
    ) -> None:
        """As `create` and `open` make it; `lock` is the descriptor of the locked file."""
        self.path, self.manifest, self.shown = path, manifest, shown
        self.spill = path.name.removeprefix(PREFIX)
        self._limit, self._lock = limit, lock
        from esops.stores.arrow_events import ColumnsInUse  # with Arrow, which few loads need here

        self._in_use = ColumnsInUse()
        self._lengths, self._counts = list(manifest.lengths), list(manifest.counts)

    @classmethod
    def create(
        cls, path: Path, owner: DirectoryOwner, partitions: int, limit: int, shown: ShownSoFar
    ) -> SpillDirectory:
        """Make the directory. Raises OSError where that cannot be done, NoRoom."""
        base = path.parent
        base.mkdir(mode=0o700, exist_ok=True)
        there_is = room(base, limit)
        if there_is < min(limit, _LEAST_ROOM) or limit <= 0:
            raise NoRoom(f"{base} has too little room: {max(there_is, 0):,} bytes")
        path.mkdir(mode=0o700)
        text = {"format": _FORMAT, **asdict(owner), "shown": shown.as_json()}
        _write_whole(path / _OWNER, json.dumps(text).encode())
        lock = _locked(path)
        if lock is None:
            raise DamagedSpill("another process is at work in it")
        manifest = SpillManifest(None, [0] * partitions, [0] * partitions)
        return cls(path, manifest, shown, limit, lock)

    @classmethod
    def open(cls, path: Path, spill: Spill, limit: int) -> SpillDirectory:
        """Open a directory that another process made, as its manifest says.

        Of the partitions that are in the table nothing is needed. Raises DamagedSpill that says
        why it cannot be used.
        """
        try:
            _check_ours(path)
            found = json.loads((path / _OWNER).read_bytes())
            if found.get("format") != _FORMAT or found.get("spill") != spill.spill:
                raise DamagedSpill("it is another spill's")
            lock = _locked(path)
            if lock is None:
                raise DamagedSpill("another process is at work in it")
            try:
                shown = ShownSoFar.from_json(found["shown"])
                made = cls(path, _manifest(path, spill), shown, limit, lock)
                made._cut(spill.partition)
            except BaseException:
                os.close(lock)
                raise
        except FileNotFoundError as error:
            name = Path(error.filename or path).name
            missing = "it does not exist" if name in {path.name, _OWNER} else f"{name} is missing"
            raise DamagedSpill(missing) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedSpill(str(error)) from None
        return made

    # -- writing

    @property
    def events(self) -> int:
        """How many events were written, whether or not the manifest says so."""
        return sum(self._counts)

    @property
    def size(self) -> int:
        """How many bytes were written."""
        return sum(self._lengths)

    def write(self, frames: Sequence[bytes], counts: Sequence[int]) -> None:
        """Write a frame to each partition's file, or nothing; `counts` are the events in them.

        Raises NoRoom or OSError, and then none of the frames is there.
        """
        wanted = sum(map(len, frames))
        if wanted > room(self.path, self._limit - self.size):
            raise NoRoom(f"{self.size:,} bytes are as much as {self.path.parent} may take")
        try:
            for number, data in enumerate(frames):
                if data:
                    _append(self._file(number), data)
        except OSError:
            for number, length in enumerate(self._lengths):
                if self._file(number).exists():
                    os.truncate(self._file(number), length)
            raise
        for number, (data, count) in enumerate(zip(frames, counts, strict=True)):
            self._lengths[number] += len(data)
            self._counts[number] += count

    def keep(
        self,
        position: Position,
        mark: Mapping[str, Any] | None,
        applied: Mapping[str, Any] | None,
    ) -> None:
        """Make certain what was written so far, up to a position. Raises OSError."""
        for number, length in enumerate(self._lengths):
            if length != self.manifest.lengths[number]:
                _sync(self._file(number))
        made = SpillManifest(position, tuple(self._lengths), tuple(self._counts), mark, applied)
        text = {**asdict(made), "position": str(position)}
        _write_whole(self.path / _MANIFEST, json.dumps(text).encode())
        self.manifest = made

    # -- reading

    def read(self, partition: int) -> Iterator[list[RecordedEvent]]:
        """The events of a partition, in order. Raises DamagedSpill."""
        left = self.manifest.counts[partition]
        if not left:
            return
        try:
            with self._file(partition).open("rb") as file:
                while left:
                    head = file.read(HEADER_BYTES)
                    size, _ = header(head)
                    events = events_of(head, file.read(size), self._in_use)
                    left -= len(events)
                    yield events
        except OSError as error:
            raise DamagedSpill(str(error)) from None

    def forget(self, partition: int) -> None:
        """Delete the file of a partition that is in the table."""
        self._file(partition).unlink(missing_ok=True)

    # -- the end

    def close(self) -> None:
        """Give the lock back; the directory stays."""
        with contextlib.suppress(OSError):
            os.close(self._lock)

    def remove(self) -> None:
        """Delete it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()

    def _file(self, partition: int) -> Path:
        return self.path / f"{partition:03d}.events"

    def _cut(self, first: int) -> None:
        """Cut off what the manifest does not name. Raises DamagedSpill where there is less."""
        for number in range(first, len(self._lengths)):
            length, path = self._lengths[number], self._file(number)
            there = path.stat().st_size if length or path.exists() else 0
            if there < length:
                raise DamagedSpill(f"{path.name} has {there} bytes, and {length} were written")
            if there > length:
                os.truncate(path, length)


def room(path: Path, limit: int) -> int:
    """How many bytes may be written at a place of which `limit` bytes may be used at most."""
    usage = shutil.disk_usage(path)
    reserve = min(usage.total // _RESERVE_SHARE, _RESERVE_MOST)
    return min(limit, usage.free - reserve)


def remove_others(base: Path, database: str, known: set[str]) -> None:
    """Delete the directories of spills of a database that it does not know any more, such as those
    of a process that was killed between its last transaction and the deletion.
    """
    for path in base.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError, KeyError, DamagedSpill):
            _check_ours(path)
            owner = json.loads((path / _OWNER).read_bytes())
            if owner["database"] != database or owner["spill"] in known:
                continue
            lock = _locked(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def remove_of(directory: str, spill: str) -> None:
    """Delete the directory of a spill whose row is gone, where it is on this machine.

    Its name alone has the id, which is random, so nothing else is taken for it: also one that was
    never finished, or that others may read by now, has to go.
    """
    path = Path(directory)
    with contextlib.suppress(OSError):
        found = path.lstat()
        ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if ours and path.name == f"{PREFIX}{spill}":
            shutil.rmtree(path, ignore_errors=True)


def here() -> str:
    """This machine's name."""
    return socket.gethostname()


def _manifest(path: Path, spill: Spill) -> SpillManifest:
    """The manifest; an empty one where nothing is certain yet. Raises DamagedSpill."""
    file, partitions = path / _MANIFEST, spill.partitions
    if not file.exists() and spill.until is None:
        return SpillManifest(None, [0] * partitions, [0] * partitions)
    fields = json.loads(file.read_bytes())
    made = SpillManifest(**{**fields, "position": Position.parse(fields["position"])})
    if len(made.lengths) != partitions or len(made.counts) != partitions:
        raise DamagedSpill("it has another number of partitions")
    if spill.until is not None and made.position != spill.until:
        raise DamagedSpill(f"it has the events up to {made.position}, not up to {spill.until}")
    return made


def _check_ours(path: Path) -> None:
    """Raises DamagedSpill for what somebody else could write to."""
    found = path.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not ours or found.st_mode & 0o077:
        raise DamagedSpill(f"{path} is not a directory that only this user can use")


def _locked(path: Path) -> int | None:
    """The descriptor of the locked file; None where another process has locked it."""
    lock = os.open(path / _OWNER, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _append(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
    finally:
        os.close(file)


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, whatever happens."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    _append(beside, data)
    _sync(beside)
    beside.replace(path)
    _sync(path.parent)
