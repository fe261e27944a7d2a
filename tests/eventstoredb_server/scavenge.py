"""A scavenge: what is truncated, too old or deleted leaves the log, and streams of their own report
it.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid

from tests.eventstoredb_server.storage import ANY, EPOCHS, Proposed

SCAVENGES = "$scavenges"


class AlreadyRunning(Exception):
    pass


class NoSuchScavenge(Exception):
    pass


class Scavenger:
    def __init__(self, node) -> None:
        self.node, self.storage = node, node.cluster.storage
        self.current: str | None = None
        self.last: tuple[str | None, str] = (None, "Unknown")
        self.pause = 0.05
        """Seconds that the work takes before it is done, so that it can be seen running and be
        stopped.
        """
        self._task: asyncio.Task | None = None

    def start(self) -> str:
        node = f"{self.node.host}:{self.node.port}"
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
        dead: set[int] = set()
        for stream in self.storage.streams.values():
            if stream.name == EPOCHS:
                continue
            about = self.storage.streams.get(stream.name.removeprefix("$$"))
            if stream.tombstoned or (about is not stream and about and about.tombstoned):
                alive = stream.records[-1:]
            else:
                alive = [
                    record
                    for record in stream.records
                    if record.revision >= stream.first_readable() and stream.is_young(record)
                ]
                alive = alive or stream.records[-1:]
            kept = {record.position for record in alive}
            dead |= {record.position for record in stream.records} - kept
        saved = len(dead - self.node.gone) * 100
        self.node.gone |= dead
        self.node.cluster.let_go()
        return saved

    def _report(self, id: str, type: str, **fields: object) -> None:
        data = json.dumps({"scavengeId": id, **fields}).encode()
        written = self.storage.append(f"{SCAVENGES}-{id}", ANY, [Proposed(type, data)])
        link = Proposed("$>", f"{written.revision}@{SCAVENGES}-{id}".encode(), is_json=False)
        self.storage.append(SCAVENGES, ANY, [link])
