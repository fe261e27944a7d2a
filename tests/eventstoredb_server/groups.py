"""Persistent subscriptions: groups that push events to consumers, wait for their acknowledgement,
retry and park.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.eventstoredb_server.storage import ANY, LINK, Proposed, Record, Storage

STRATEGIES = ("RoundRobin", "DispatchToSingle", "Pinned", "PinnedByCorrelation")
CONFIG_STREAM = "$persistentSubscriptionConfig"
TICK = 1.0
"""Seconds between two looks at timeouts, as in the server: a shorter timeout is not seen sooner."""


class GroupExists(Exception):
    pass


class NoSuchGroup(Exception):
    pass


class GroupFailed(Exception):
    pass


class GroupFull(Exception):
    pass


@dataclass
class GroupSettings:
    resolve_links: bool = False
    extra_statistics: bool = False
    max_retry_count: int = 10
    min_checkpoint_count: int = 10
    max_checkpoint_count: int = 1000
    max_subscriber_count: int = 0
    live_buffer_size: int = 500
    read_batch_size: int = 20
    history_buffer_size: int = 500
    message_timeout_ms: int = 30_000
    checkpoint_after_ms: int = 2_000
    strategy: str = "RoundRobin"

    def check(self) -> None:
        """Raises GroupFailed with the server's reasons."""
        if self.strategy not in STRATEGIES:
            raise GroupFailed(f"Consumer strategy {self.strategy} does not exist.")
        if self.history_buffer_size <= self.read_batch_size:
            raise GroupFailed("Buffer size must be larger than read batch size")
        if self.max_checkpoint_count < self.min_checkpoint_count:
            raise GroupFailed(
                "Maximum checkpoint count must be larger than the minimum checkpoint count"
            )


@dataclass(eq=False)
class Message:
    record: Record
    target: Record | None
    retries: int = 0
    sent_at: float = 0

    @property
    def id(self) -> uuid.UUID:
        return self.record.id


@dataclass(eq=False)
class Consumer:
    name: str
    user: str
    slots: int
    queue: asyncio.Queue[Message | None] = field(default_factory=asyncio.Queue)
    in_flight: dict[uuid.UUID, Message] = field(default_factory=dict)
    total: int = 0
    id: uuid.UUID = field(default_factory=uuid.uuid4)

    @property
    def free(self) -> int:
        return self.slots - len(self.in_flight)


class Group:
    """`source` is a stream's name or $all, `start` a revision or a position of it (-1: the end),
    `position` what is read next.
    """

    def __init__(
        self,
        storage: Storage,
        source: str,
        name: str,
        settings: GroupSettings,
        start: int,
        passes: Callable[[Record], bool],
    ) -> None:
        self.storage, self.source, self.name, self.settings, self.passes = (
            storage,
            source,
            name,
            settings,
            passes,
        )
        self.start_from = start
        self.position = start if start >= 0 else self._end()
        self.checkpoint = None
        self.consumers: list[Consumer] = []
        self.retry: deque[Message] = deque()
        self.total = 0
        self.last_known: Record | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task | None = None

    def _end(self) -> int:
        if self.source == "$all":
            return self.storage.end
        stream = self.storage.streams.get(self.source)
        return stream.last + 1 if stream else 0

    # -- the streams that a group keeps

    @property
    def stem(self) -> str:
        return f"$persistentsubscription-{self.source}::{self.name}"

    @property
    def parked_stream(self) -> str:
        return self.stem + "-parked"

    def parked(self) -> list[Record]:
        stream = self.storage.stream(self.parked_stream)
        return list(self.storage.forwards(stream, 0)) if stream else []

    # -- consumers

    def connect(self, consumer: Consumer) -> None:
        limit = self.settings.max_subscriber_count
        if limit and len(self.consumers) >= limit:
            raise GroupFull
        self.consumers.append(consumer)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        self._wake.set()

    def disconnect(self, consumer: Consumer) -> None:
        if consumer in self.consumers:
            self.consumers.remove(consumer)
            self.retry.extend(consumer.in_flight.values())
            self._wake.set()

    def drop_all(self) -> None:
        for consumer in list(self.consumers):
            consumer.queue.put_nowait(None)
            self.disconnect(consumer)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def ack(self, consumer: Consumer, ids: list[uuid.UUID]) -> None:
        for id in ids:
            message = consumer.in_flight.pop(id, None)
            if message is not None:
                self._done(message)
        self._wake.set()

    def nack(self, consumer: Consumer, ids: list[uuid.UUID], action: str, reason: str) -> None:
        for id in ids:
            message = consumer.in_flight.pop(id, None)
            if message is None:
                continue
            if action == "Park":
                self._park(message, reason or "Client explicitly NAK'ed message.\n")
            elif action == "Skip":
                self._done(message)
            elif action == "Stop":
                self.retry.append(message)
                consumer.queue.put_nowait(None)
            else:
                self._retry_or_park(message)
        self._wake.set()

    def replay(self, stop_at: int | None) -> None:
        """Push parked messages again, all or the first so many revisions, and truncate what is
        pushed.
        """
        records = self.parked()
        chosen = [record for record in records if stop_at is None or record.revision < stop_at]
        for record in chosen:
            target = self.storage.resolve(record)
            if target is not None:
                self.retry.append(Message(record=record, target=target))
        if chosen:
            document = json.dumps({"$tb": chosen[-1].revision + 1}).encode()
            self.storage.append("$$" + self.parked_stream, ANY, [Proposed("$metadata", document)])
        self._wake.set()

    # -- the pump

    async def _run(self) -> None:
        next_look = time.monotonic() + TICK
        while True:
            self._wake.clear()
            changed = self.storage.changed
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + TICK
                self._expire()
            while self._push_one():
                pass
            waits = [
                asyncio.ensure_future(self._wake.wait()),
                asyncio.ensure_future(changed.wait()),
            ]
            busy = any(consumer.in_flight for consumer in self.consumers)
            try:
                await asyncio.wait(
                    waits,
                    timeout=max(0, next_look - time.monotonic()) if busy else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                for wait in waits:
                    wait.cancel()

    def _expire(self) -> None:
        timeout = self.settings.message_timeout_ms / 1000
        if not timeout:
            return
        for consumer in self.consumers:
            for message in [
                m for m in consumer.in_flight.values() if time.monotonic() - m.sent_at > timeout
            ]:
                del consumer.in_flight[message.id]
                self._retry_or_park(message)

    def _retry_or_park(self, message: Message) -> None:
        if message.retries >= self.settings.max_retry_count:
            self._park(message, "Maximum retry count reached")
            return
        message.retries += 1
        self.retry.append(message)

    def _park(self, message: Message, reason: str) -> None:
        original = (
            message.target
            if message.record.stream == self.parked_stream and message.target
            else message.record
        )
        link = Proposed(
            LINK,
            f"{original.revision}@{original.stream}".encode(),
            json.dumps(
                {"added": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "reason": reason}
            ).encode(),
            is_json=False,
        )
        self.storage.append(self.parked_stream, ANY, [link])
        self._done(message)

    def _done(self, message: Message) -> None:
        self.checkpoint = message.record

    def _push_one(self) -> bool:
        if not any(consumer.free > 0 for consumer in self.consumers):
            return False
        message = self.retry.popleft() if self.retry else self._next()
        if message is None:
            return False
        consumer = self._choose(message)
        message.sent_at = time.monotonic()
        consumer.in_flight[message.id] = message
        consumer.total += 1
        self.total += 1
        consumer.queue.put_nowait(message)
        return True

    def _choose(self, message: Message) -> Consumer:
        free = [consumer for consumer in self.consumers if consumer.free > 0]
        if self.settings.strategy.startswith("Pinned"):
            shown = message.target or message.record
            return free[zlib.crc32(shown.stream.encode()) % len(free)]
        if self.settings.strategy == "RoundRobin":
            self.consumers.remove(free[0])
            self.consumers.append(free[0])
        return free[0]

    def _next(self) -> Message | None:
        record = self._next_of_all() if self.source == "$all" else self._next_of_stream()
        if record is None:
            return None
        self.last_known = record
        return Message(
            record, self.storage.resolve(record) if self.settings.resolve_links else None
        )

    def _next_of_all(self) -> Record | None:
        while page := self.storage.page(self.position, 100):
            for record in page:
                self.position = record.position + 1
                if self.passes(record) and not record.stream.startswith("$persistentsubscription-"):
                    return record
        return None

    def _next_of_stream(self) -> Record | None:
        stream = self.storage.stream(self.source)
        if stream is None:
            return None
        for record in self.storage.forwards(stream, self.position):
            self.position = record.revision + 1
            return record
        return None


class Groups:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._groups: dict[tuple[str, str], Group] = {}
        self._described: dict[tuple[str, str], dict | None] = {}

    def create(
        self,
        source: str,
        name: str,
        settings: GroupSettings,
        start: int,
        passes: Callable[[Record], bool],
        described: dict | None = None,
    ) -> Group:
        if (source, name) in self._groups:
            raise GroupExists
        settings.check()
        self._described[source, name] = described
        group = self._groups[source, name] = Group(
            self.storage, source, name, settings, start, passes
        )
        self._note()
        return group

    def update(self, source: str, name: str, settings: GroupSettings, start: int | None) -> None:
        old = self.get(source, name)
        settings.check()
        old.drop_all()
        group = Group(
            self.storage,
            source,
            name,
            settings,
            old.start_from if start is None else start,
            old.passes,
        )
        self._groups[source, name] = group
        self._note()

    def get(self, source: str, name: str) -> Group:
        try:
            return self._groups[source, name]
        except KeyError:
            raise NoSuchGroup from None

    def delete(self, source: str, name: str) -> None:
        self.get(source, name).drop_all()
        del self._groups[source, name]
        self._note()

    def all(self, source: str | None = None) -> list[Group]:
        return [
            group for group in self._groups.values() if source is None or group.source == source
        ]

    def _note(self) -> None:
        entries = [
            {"stream": source, "group": name, "filter": self._described.get((source, name))}
            for source, name in self._groups
        ]
        document = json.dumps({"version": "2", "entries": entries}).encode()
        self.storage.append(CONFIG_STREAM, ANY, [Proposed("$PersistentConfig", document)])
