"""Projections inside the node: the five of the system, which write links, and those of users, in
JavaScript.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.eventstoredb_server.javascript import Query, QueryError
from tests.eventstoredb_server.storage import (
    ANY,
    DELETED,
    LINK,
    METADATA,
    TOMBSTONE,
    Proposed,
    Record,
    Storage,
    StreamSettings,
)

PAGE = 200
LAG = 0.05
"""Seconds that a projection lies behind the log, as a real one does."""
Writes = tuple[str, Proposed]


class NoSuchProjection(Exception):
    pass


class ProjectionExists(Exception):
    pass


class ProjectionIsRunning(Exception):
    pass


def _link(record: Record, metadata: dict[str, object] | None = None) -> Proposed:
    data = record.data if record.type == LINK else f"{record.revision}@{record.stream}".encode()
    return Proposed(LINK, data, json.dumps(metadata).encode() if metadata else b"", is_json=False)


def _category(stream: str) -> str | None:
    category, separator, _ = stream.partition("-")
    return category if separator and category and not stream.startswith("$") else None


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def by_category(record: Record) -> list[Writes]:
    if record.type == METADATA and StreamSettings.parse(record.data).truncate_before == DELETED:
        # A soft deletion: the link is to the metadata event.
        category = _category(record.stream.removeprefix("$$"))
        return [(f"$ce-{category}", _link(record))] if category else []
    category = _category(record.stream)
    return [(f"$ce-{category}", _link(record))] if category and record.type != TOMBSTONE else []


def by_event_type(record: Record) -> list[Writes]:
    if record.type in (LINK, TOMBSTONE) or record.stream.startswith("$"):
        return []
    return [(f"$et-{record.type}", _link(record))]


def by_correlation_id(record: Record) -> list[Writes]:
    try:
        metadata = json.loads(record.metadata)
        correlation = metadata.get("$correlationId")
    except (ValueError, AttributeError):
        return []
    if correlation is None or record.stream.startswith("$bc-"):
        return []
    return [(f"$bc-{correlation}", _link(record, {"$eventTimestamp": record.created}))]


def stream_by_category(record: Record) -> list[Writes]:
    category = _category(record.stream)
    if category is None or record.revision != 0:
        return []
    return [(f"$category-{category}", Proposed("$@", record.stream.encode(), is_json=False))]


def streams(record: Record) -> list[Writes]:
    return (
        [("$streams", _link(record))]
        if record.revision == 0 and record.stream != "$streams"
        else []
    )


SYSTEM: dict[str, Callable[[Record], list[Writes]]] = {
    "$by_category": by_category,
    "$by_event_type": by_event_type,
    "$by_correlation_id": by_correlation_id,
    "$stream_by_category": stream_by_category,
    "$streams": streams,
}


@dataclass(eq=False)
class Projection:
    name: str
    text: str
    emit: bool = False
    track: bool = False
    mode: str = "Continuous"
    running: bool = False
    deleting: bool = False
    fault: str | None = None
    position: int = -1
    processed: int = 0
    states: dict[str, object] = field(default_factory=dict)
    results: dict[str, object] = field(default_factory=dict)
    emitted: set[str] = field(default_factory=set)
    written: set[tuple[str, str, int]] = field(default_factory=set)
    """What it has written because of which event: said again after a reset, it is not written
    again.
    """
    query: Query | None = None
    slow: float = 0

    @property
    def is_system(self) -> bool:
        return self.name in SYSTEM

    @property
    def status(self) -> str:
        status = "Faulted" if self.fault else "Running" if self.running else "Stopped"
        return f"Deleting/{status}" if self.deleting else status

    def compile(self) -> None:
        self.fault, self.query = None, None
        try:
            self.query = Query(self.text)
        except QueryError as error:
            self.fault = str(error)

    def forget(self) -> None:
        self.position, self.processed = -1, 0
        self.states.clear()
        self.results.clear()


class Projector:
    """Keeps all projections; each running one follows the log in a task of its own."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.slow = 0.0
        """Seconds before each page of 20 events that a user's projection takes, so that it can be
        seen catching up.
        """
        self._all = {name: Projection(name, "") for name in SYSTEM}
        self._tasks: dict[str, asyncio.Task] = {}

    def get(self, name: str) -> Projection:
        try:
            return self._all[name]
        except KeyError:
            raise NoSuchProjection(name) from None

    def all(self) -> list[Projection]:
        return list(self._all.values())

    def create(self, name: str, text: str, mode: str, emit: bool, track: bool) -> None:
        name = name or str(uuid.uuid4())
        if name in self._all:
            raise ProjectionExists(name)
        projection = self._all[name] = Projection(name, text, emit, track, mode)
        projection.compile()
        self.enable(name)

    def update(self, name: str, text: str, emit: bool | None) -> None:
        projection = self.get(name)
        projection.text = text
        projection.emit = projection.emit if emit is None else emit
        projection.compile()

    def enable(self, name: str) -> None:
        projection = self.get(name)
        if projection.running:
            return
        projection.processed = 0
        projection.running = projection.fault is None
        if projection.running:
            self._tasks[name] = asyncio.get_running_loop().create_task(self._run(projection))

    def disable(self, name: str) -> None:
        self.get(name).running = False
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    def reset(self, name: str) -> None:
        """Start from zero. One that runs goes on at once, with its state made anew."""
        projection = self.get(name)
        was_running = projection.running
        self.disable(name)
        projection.forget()
        if was_running:
            self.enable(name)

    def delete(self, name: str, emitted_streams: bool) -> None:
        projection = self.get(name)
        if projection.running:
            raise ProjectionIsRunning(name)
        del self._all[name]
        if emitted_streams:
            for stream in projection.emitted:
                if self.storage.streams.get(stream):
                    self.storage.delete(stream, ANY)

    def place(self, projection: Projection) -> str:
        """The position as the server writes it: of $all, or revisions of the streams that are
        read.
        """
        source = projection.query.source if projection.query else {}
        if not source or source.get("all"):
            return f"C:{projection.position}/P:{projection.position}"
        names = source.get("streams") or [f"$ce-{name}" for name in source["categories"]]
        return "; ".join(f"{name}: {self._seen_of(name, projection.position)}" for name in names)

    def _seen_of(self, name: str, position: int) -> int:
        """The newest revision of a stream whose event (or whose link's) a projection has seen."""
        stream = self.storage.streams.get(name)
        for record in reversed(stream.records if stream else []):
            target = record.target
            about = self.storage.streams.get(target[0]) if target else None
            found = about.at(target[1]) if about and target else None
            if target is None and record.position <= position:
                return record.revision
            if found is not None and found.position <= position:
                return record.revision
        return -1

    def progress(self, projection: Projection) -> float:
        end = self.storage.last_position()
        return (
            100.0
            if end <= 0 or projection.position >= end
            else max(0.0, 100.0 * projection.position / end)
        )

    async def _run(self, projection: Projection) -> None:
        size = PAGE if not self.slow or projection.is_system else 20
        while projection.running:
            changed = self.storage.changed
            page = self.storage.page(projection.position + 1, size)
            for record in page:
                try:
                    self._take(projection, record)
                except QueryError as error:
                    projection.fault, projection.running = str(error), False
                    return
                projection.position = record.position
            if len(page) < size:
                await changed.wait()
                await asyncio.sleep(LAG)
            await asyncio.sleep(0 if projection.is_system else self.slow)

    def _take(self, projection: Projection, record: Record) -> None:
        if record.is_json and not _is_json(record.data):
            return  # EventFilter.PassesValidation: no projection sees it
        if projection.is_system:
            writes = SYSTEM[projection.name](record)
            for stream, event in writes:
                self.storage.append(stream, ANY, [event])
            projection.processed += bool(writes)
            return
        query = projection.query
        assert query is not None
        if not self._is_of(query.source, record) or not query.handles(record):
            return
        partition = query.partition(record)
        if partition is None:
            return
        before = projection.states.get(partition)
        if before is None and partition:
            self._write_once(
                projection,
                "",
                0,
                f"$projections-{projection.name}-partitions",
                "$partition",
                partition.encode(),
                {},
            )
        outcome = query.process(record, query.initial() if before is None else before)
        projection.states[partition], projection.results[partition] = outcome.state, outcome.result
        projection.processed += 1
        if query.output:
            middle = f"-{partition}" if query.partitioned else ""
            data = json.dumps(outcome.result).encode()
            self._write(
                projection,
                record,
                0,
                f"$projections-{projection.name}{middle}-result",
                "Result",
                data,
                {},
            )
        if projection.emit:
            for number, one in enumerate(outcome.emitted, 1):
                self._write(
                    projection,
                    record,
                    number,
                    one["stream"],
                    one["type"],
                    one["data"].encode(),
                    one["metadata"],
                )
                if projection.track:
                    projection.emitted.add(one["stream"])

    def _write(
        self,
        projection: Projection,
        cause: Record,
        number: int,
        stream: str,
        type: str,
        data: bytes,
        metadata: dict[str, object],
    ) -> None:
        self._write_once(
            projection,
            str(cause.id),
            number,
            stream,
            type,
            data,
            {**metadata, "$causedBy": str(cause.id)},
        )

    def _write_once(
        self,
        projection: Projection,
        cause: str,
        number: int,
        stream: str,
        type: str,
        data: bytes,
        metadata: dict[str, object],
    ) -> None:
        mark = (stream, cause or data.decode(), number)
        if mark not in projection.written:
            projection.written.add(mark)
            is_json = type not in (LINK, "$partition")
            self.storage.append(
                stream, ANY, [Proposed(type, data, json.dumps(metadata).encode(), is_json)]
            )

    @staticmethod
    def _is_of(source: dict[str, object], record: Record) -> bool:
        if record.type in (LINK, TOMBSTONE) or record.type.startswith("$"):
            return False
        if source.get("all"):
            return not record.stream.startswith("$")
        if "categories" in source:
            return _category(record.stream) in source["categories"]
        return record.stream in source["streams"]
