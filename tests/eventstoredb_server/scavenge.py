"""A scavenge: what is truncated, too old or deleted leaves the log, and streams of their own report
it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid

from tests.eventstoredb_server.storage import ANY, EPOCHS, Proposed, Storage

SCAVENGES = "$scavenges"


class AlreadyRunning(Exception):
    pass


class NoSuchScavenge(Exception):
    pass


class Scavenger:
    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.current: str | None = None
        self.last: tuple[str | None, str] = (None, "Unknown")
        self.pause = 0.05
        """Seconds that the work takes before it is done, so that it can be seen running and be
        stopped.
        """
        self._task: asyncio.Task | None = None

    def start(self, node: str) -> str:
        if self.current is not None:
            raise AlreadyRunning
        self.current = str(uuid.uuid4())
        self.last = (self.current, "InProgress")
        self.storage.complete_chunk()
        self._report(self.current, "$scavengeStarted", nodeEndpoint=node)
        self._task = asyncio.get_running_loop().create_task(self._run(self.current, node))
        return self.current

    async def stop(self, which: str) -> str:
        if self.current is None or which not in (self.current, "current"):
            raise NoSuchScavenge
        found, task = self.current, self._task
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return found

    async def _run(self, id: str, node: str) -> None:
        started = time.monotonic()
        result, saved = "Success", 0
        try:
            await asyncio.sleep(self.pause)
            saved = self._remove_the_dead()
            self._report(
                id,
                "$scavengeChunksCompleted",
                nodeEndpoint=node,
                chunkStartNumber=0,
                chunkEndNumber=0,
                spaceSaved=saved,
            )
        except asyncio.CancelledError:
            result = "Stopped"
        finally:
            taken = f"0:00:{time.monotonic() - started:09.6f}"
            self._report(
                id,
                "$scavengeCompleted",
                nodeEndpoint=node,
                result=result,
                error="",
                timeTaken=taken,
                spaceSaved=saved,
                maxChunkScavenged=0,
            )
            self.current, self.last = None, (id, result)

    def _remove_the_dead(self) -> int:
        storage, keep, before = self.storage, [], len(self.storage.records)
        for stream in storage.streams.values():
            if stream.name == EPOCHS:
                continue
            if stream.tombstoned:
                alive = [stream.records[-1]]
            else:
                alive = [
                    record
                    for record in stream.records
                    if record.revision >= stream.first_readable() and stream.is_young(record)
                ]
                alive = alive or stream.records[-1:]
            stream.records = alive
            keep.extend(alive)
        for name in [name for name, stream in storage.streams.items() if stream.tombstoned]:
            storage.streams.get("$$" + name, storage.streams[name]).records[:-1] = []
        keep.sort(key=lambda record: record.position)
        storage.records = keep
        storage.positions = [record.position for record in keep]
        return (before - len(keep)) * 100

    def _report(self, id: str, type: str, **fields: object) -> None:
        data = json.dumps({"scavengeId": id, **fields}).encode()
        written = self.storage.append(f"{SCAVENGES}-{id}", ANY, [Proposed(type, data)])
        link = Proposed("$>", f"{written.revision}@{SCAVENGES}-{id}".encode(), is_json=False)
        self.storage.append(SCAVENGES, ANY, [link])
