"""The log ($all) and its streams, with the rules of the server's index writer and its readers."""

from __future__ import annotations

import asyncio
import base64
import bisect
import itertools
import json
import os
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NO_STREAM, ANY, STREAM_EXISTS = -1, -2, -4
DELETED = 2**63 - 1
"""The revision of a tombstone, and the `$tb` of a soft-deleted stream."""

LINK, METADATA, TOMBSTONE = "$>", "$metadata", "$streamDeleted"
EPOCHS = "$epoch-information"
"""Told of by their stream alone: reads of $all leave them out, and so do all that is built on
those.
"""
CHUNK = 256 * 1024 * 1024
"""Bytes of a chunk of the log; a scavenge completes the one that is being written, so that
positions leap to the next.
"""
_HEADER = 100
"""Bytes that a record takes beside its names and its content; positions are byte offsets."""


class WrongExpectedVersion(Exception):
    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected {expected}, actual {actual}")
        self.expected, self.actual = expected, actual


class StreamDeleted(Exception):
    pass


class InvalidPosition(Exception):
    pass


class InsideRecord(Exception):
    """A position inside a record of the chunk that is being written."""


class Proposed:
    """An event as a client proposes it."""

    __slots__ = ("data", "id", "is_json", "metadata", "type")

    def __init__(
        self,
        type: str,
        data: bytes = b"",
        metadata: bytes = b"",
        is_json: bool = True,
        id: uuid.UUID | None = None,
    ) -> None:
        self.id, self.type, self.data, self.metadata, self.is_json = (
            id or uuid.uuid4(),
            type,
            data,
            metadata,
            is_json,
        )

    @property
    def size(self) -> int:
        return len(self.data) + len(self.metadata) + len(self.type.encode())


class Record:
    """An event in the log. `created` is in ticks of 100 ns since 1970."""

    __slots__ = (
        "created",
        "data",
        "id",
        "is_json",
        "metadata",
        "position",
        "revision",
        "stream",
        "type",
    )

    def __init__(
        self, event: Proposed, stream: str, revision: int, position: int, created: int
    ) -> None:
        self.id, self.type, self.data, self.metadata, self.is_json = (
            event.id,
            event.type,
            event.data,
            event.metadata,
            event.is_json,
        )
        self.stream, self.revision, self.position, self.created = (
            stream,
            revision,
            position,
            created,
        )

    @property
    def target(self) -> tuple[str, int] | None:
        """Where a link points."""
        if self.type != LINK:
            return None
        revision, _, stream = self.data.decode().partition("@")
        return (stream, int(revision)) if revision.isdigit() else None


@dataclass
class StreamSettings:
    """The system's part of a stream's metadata."""

    max_count: int | None = None
    max_age: int | None = None
    truncate_before: int = 0
    acl: dict[str, object] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> StreamSettings:
        try:
            document = json.loads(data)
        except ValueError:
            return cls()
        if not isinstance(document, dict):
            return cls()
        return cls(
            document.get("$maxCount"),
            document.get("$maxAge"),
            document.get("$tb") or 0,
            document.get("$acl") or {},
        )


class Stream:
    """A stream: what is still in the log of it.

    Records are without gaps, since only a prefix ever leaves.
    """

    __slots__ = ("ids", "name", "records", "settings")

    def __init__(self, name: str) -> None:
        self.name = name
        self.records: list[Record] = []
        self.ids: dict[uuid.UUID, int] = {}
        self.settings = StreamSettings(max_count=1) if name.startswith("$$") else StreamSettings()

    @property
    def last(self) -> int:
        return self.records[-1].revision if self.records else NO_STREAM

    @property
    def soft_deleted(self) -> bool:
        return self.settings.truncate_before == DELETED

    @property
    def tombstoned(self) -> bool:
        return self.last == DELETED

    def first_readable(self) -> int:
        settings = self.settings
        first = max(self.records[0].revision if self.records else 0, settings.truncate_before)
        if settings.max_count is not None:
            first = max(first, self.last - settings.max_count + 1)
        return first

    def is_young(self, record: Record) -> bool:
        return (
            self.settings.max_age is None
            or record.created >= now_ticks() - self.settings.max_age * 10_000_000
        )

    def at(self, revision: int) -> Record | None:
        index = revision - self.records[0].revision if self.records else -1
        return self.records[index] if 0 <= index < len(self.records) else None


def now_ticks() -> int:
    return time.time_ns() // 100


class Journal:
    """The log in a file, so that a node that was killed comes back with what it had acknowledged.

    Scavenges are not kept.

    A line is an append, as a transaction of the real log is: a node that is killed while it writes
    has all of it or none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            whole = path.read_bytes()
            os.truncate(path, whole.rfind(b"\n") + 1)
        self._out = path.open("a", encoding="utf-8")

    def read(self) -> Iterator[tuple[Proposed, str, int, int, int]]:
        for line in self._path.read_text(encoding="utf-8").splitlines():
            for id, type, data, metadata, is_json, *place in json.loads(line):
                event = Proposed(
                    type, base64.b64decode(data), base64.b64decode(metadata), is_json, uuid.UUID(id)
                )
                yield event, *place

    def write(self, append: Sequence[Record]) -> None:
        """Write what one append adds."""
        self._out.write(json.dumps([self._row(record) for record in append]) + "\n")
        self._out.flush()

    @staticmethod
    def _row(record: Record) -> list[object]:
        data, metadata = (
            base64.b64encode(part).decode() for part in (record.data, record.metadata)
        )
        place = (record.stream, record.revision, record.position, record.created)
        return [str(record.id), record.type, data, metadata, record.is_json, *place]


@dataclass(frozen=True)
class Written:
    position: int
    revision: int


class Storage:
    """All of a cluster's data, in memory."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = Journal(file) if file is not None else None
        self.records: list[Record] = []
        self.positions: list[int] = []
        self.starts: list[int] = []
        """Where each record ever written began: what is a position for a reader, even after a
        scavenge.
        """
        self.streams: dict[str, Stream] = {}
        self.end = 0
        self.changed = asyncio.Event()
        if self._file is not None and self._load(self._file):
            self.begin_epoch()
            return
        self.begin_epoch()
        for user in ("admin", "ops"):
            document = json.dumps(
                {"loginName": user, "groups": ["$admins" if user == "admin" else "$ops"]}
            ).encode()
            self.append(f"$user-{user}", NO_STREAM, [Proposed("$UserCreated", document)])

    def begin_epoch(self) -> None:
        """What a leader writes when it begins to lead: a new epoch, named by an id that no other
        has.
        """
        stream = self.streams.get(EPOCHS)
        number = stream.last + 1 if stream else 0
        document = {
            "EpochPosition": self.end,
            "EpochNumber": number,
            "EpochId": str(uuid.uuid4()),
            "PrevEpochPosition": -1,
        }
        self.append(EPOCHS, ANY, [Proposed(EPOCHS, json.dumps(document).encode())])

    def remove(self, gone: Collection[int]) -> None:
        """Take records at these positions out of the log and their streams."""
        if not gone:
            return
        for stream in self.streams.values():
            stream.records = [r for r in stream.records if r.position not in gone]
        self.records = [r for r in self.records if r.position not in gone]
        self.positions = [record.position for record in self.records]

    def complete_chunk(self) -> None:
        """Begin a new chunk."""
        self.end = (self.end // CHUNK + 1) * CHUNK

    def _load(self, journal: Journal) -> bool:
        for event, stream, revision, position, created in journal.read():
            self.end = position
            self._write(self.streams.setdefault(stream, Stream(stream)), event, revision, created)
        for stream in self.streams.values():
            stream.settings = self.settings_of(stream.name)
        return bool(self.records)

    # -- writing

    def append(self, name: str, expected: int, events: Sequence[Proposed]) -> Written:
        """Append atomically. Raises WrongExpectedVersion, StreamDeleted."""
        stream = self.streams.get(name)
        if stream is not None and stream.tombstoned:
            raise StreamDeleted(name)
        again = self._decide(stream, expected, [event.id for event in events])
        if again is not None:
            record = stream.at(again) if stream else None
            return Written(record.position if record else self.end, again)
        if stream is None:
            if not events:
                return Written(self.end, NO_STREAM)
            stream = self.streams[name] = Stream(name)
            stream.settings = self.settings_of(name)
        if stream.soft_deleted and events:
            self._recreate(stream)
        created = now_ticks()
        self._keep(
            [
                self._write(stream, event, revision, created)
                for revision, event in enumerate(events, stream.last + 1)
            ]
        )
        return Written(stream.records[-1].position if events else self.end, stream.last)

    def delete(self, name: str, expected: int) -> int:
        """Delete softly: the name can be used again."""
        stream = self._checked_for_deletion(name, expected)
        if stream is None:
            raise WrongExpectedVersion(expected, NO_STREAM)
        document = self._metadata_document(name)
        document["$tb"] = DELETED
        written = self.append("$$" + name, ANY, [Proposed(METADATA, json.dumps(document).encode())])
        stream.settings.truncate_before = DELETED
        return written.position

    def tombstone(self, name: str, expected: int) -> int:
        """Delete for ever."""
        stream = self._checked_for_deletion(name, expected)
        if stream is None:
            stream = self.streams[name] = Stream(name)
        self._keep([self._write(stream, Proposed(TOMBSTONE), DELETED, now_ticks())])
        return self.positions[-1]

    def _checked_for_deletion(self, name: str, expected: int) -> Stream | None:
        self._check_not_tombstoned(name)
        stream = self.streams.get(name)
        if expected == STREAM_EXISTS and stream is not None and stream.soft_deleted:
            raise StreamDeleted(name)
        if self._decide(stream, expected, [uuid.uuid4()], deleting=True) is not None:
            raise WrongExpectedVersion(expected, stream.last if stream else NO_STREAM)
        return stream

    def _check_not_tombstoned(self, name: str) -> None:
        for one in (name, name.removeprefix("$$")):
            found = self.streams.get(one)
            if found is not None and found.tombstoned:
                raise StreamDeleted(one)

    @staticmethod
    def _decide(
        stream: Stream | None, expected: int, ids: Sequence[uuid.UUID], deleting: bool = False
    ) -> int | None:
        """None: go ahead.

        A revision: these events stand there already. Raises WrongExpectedVersion.
        """
        current = stream.last if stream else NO_STREAM
        if expected == STREAM_EXISTS and stream is None:
            raise WrongExpectedVersion(expected, current)
        if expected == STREAM_EXISTS and stream.soft_deleted:
            raise StreamDeleted(stream.name)
        if expected in (ANY, STREAM_EXISTS):
            if stream is None or not ids or ids[0] not in stream.ids:
                return None
            if any(one not in stream.ids for one in ids):
                raise WrongExpectedVersion(expected, current)
            return stream.ids[ids[-1]]
        if expected == current:
            return None
        if expected > current or stream is None:
            raise WrongExpectedVersion(expected, current)
        for revision, one in enumerate(ids, expected + 1):
            standing = stream.at(revision)
            if standing is None or standing.id != one:
                if (
                    revision == expected + 1
                    and expected == NO_STREAM
                    and stream.soft_deleted
                    and not deleting
                ):
                    return None
                raise WrongExpectedVersion(expected, current)
        return expected + len(ids)

    def _recreate(self, stream: Stream) -> None:
        document = self._metadata_document(stream.name)
        document["$tb"] = stream.last + 1
        self.append("$$" + stream.name, ANY, [Proposed(METADATA, json.dumps(document).encode())])

    def _metadata_document(self, name: str) -> dict[str, object]:
        meta = self.streams.get("$$" + name)
        try:
            found = json.loads(meta.records[-1].data) if meta and meta.records else {}
        except ValueError:
            found = {}
        return found if isinstance(found, dict) else {}

    def settings_of(self, name: str) -> StreamSettings:
        if name.startswith("$$"):
            return StreamSettings(max_count=1)
        meta = self.streams.get("$$" + name)
        return (
            StreamSettings.parse(meta.records[-1].data)
            if meta and meta.records
            else StreamSettings()
        )

    def _write(self, stream: Stream, event: Proposed, revision: int, created: int) -> Record:
        record = Record(event, stream.name, revision, self.end, created)
        if stream.name != EPOCHS:
            self.records.append(record)
            self.positions.append(record.position)
        self.starts.append(record.position)
        stream.records.append(record)
        stream.ids[event.id] = revision
        self.end += _HEADER + len(stream.name) + event.size
        if stream.name.startswith("$$") and event.type == METADATA:
            about = self.streams.get(stream.name[2:])
            if about is not None:
                about.settings = StreamSettings.parse(event.data)
        return record

    def _keep(self, append: Sequence[Record]) -> None:
        if self._file is not None and append:
            self._file.write(append)
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    # -- reading

    def stream(self, name: str) -> Stream | None:
        """The stream as a reader may see it; None where the answer is "not found".

        Raises StreamDeleted.
        """
        self._check_not_tombstoned(name)
        stream = self.streams.get(name)
        return None if stream is None or stream.soft_deleted or not stream.records else stream

    def forwards(self, stream: Stream, start: int) -> Iterator[Record]:
        revision = max(start, stream.first_readable())
        while (record := stream.at(revision)) is not None:
            if stream.is_young(record):
                yield record
            revision += 1

    def backwards(self, stream: Stream, start: int | None) -> Iterator[Record]:
        revision = stream.last if start is None else min(start, stream.last)
        while revision >= stream.first_readable() and (record := stream.at(revision)) is not None:
            if not stream.is_young(record):
                return
            yield record
            revision -= 1

    def page(self, position: int, size: int, gone: Collection[int] = frozenset()) -> list[Record]:
        """Records at or after a position; `gone` are the positions that a node has scavenged."""
        index = bisect.bisect_left(self.positions, position)
        if not gone:
            return self.records[index : index + size]
        rest = itertools.islice(self.records, index, None)
        return list(itertools.islice((r for r in rest if r.position not in gone), size))

    def page_backwards(self, position: int, size: int) -> list[Record]:
        """Records before a position, the newest first."""
        index = bisect.bisect_left(self.positions, position)
        return self.records[max(0, index - size) : index][::-1]

    def is_start(self, position: int) -> bool:
        """Whether a record ever began there, or the next will."""
        if position in (0, self.end):
            return True
        index = bisect.bisect_left(self.starts, position)
        return index < len(self.starts) and self.starts[index] == position

    def check_forwards(self, position: int) -> None:
        """Raises InsideRecord in the chunk that is being written; elsewhere a read goes on to the
        next record, or finds none.
        """
        if self.end // CHUNK * CHUNK <= position < self.end and not self.is_start(position):
            raise InsideRecord(position)

    def is_readable_backwards(self, position: int) -> bool:
        """Whether a read backwards from there finds what it should: not beyond the end, nor inside
        of a record.
        """
        return position <= self.end and self.is_start(position)

    def check_position(self, position: int) -> None:
        """Raises InvalidPosition for one that no record ever began at, or that lies past the end."""
        if not self.is_start(position):
            raise InvalidPosition(position)

    def last_position(self) -> int:
        return self.positions[-1] if self.positions else -1

    def resolve(self, record: Record) -> Record | None:
        """What a link points to, or None when it is gone (deleted streams' events are gone for
        readers of links).
        """
        target = record.target
        if target is None:
            return None
        stream = self.streams.get(target[0])
        if stream is None or stream.tombstoned or stream.soft_deleted:
            return None
        found = stream.at(target[1])
        return (
            found
            if found is not None
            and found.revision >= stream.first_readable()
            and stream.is_young(found)
            else None
        )
