"""A writer as an application would be: carts on a node, each append with its expectation, asked
again when the answer is lost.

Run as `python -m tests.support.esdb_writers URI SEED PAUSE` until SIGTERM; prints how many events
it wrote.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from esdbclient import EventStoreDBClient, NewEvent, StreamState
from esdbclient import exceptions as esdb

from tests.support.waiting import finish

ROOT = Path(__file__).parents[2]


def main(uri: str, seed: int, pause: float) -> None:
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    chance = random.Random(seed)
    client = EventStoreDBClient(uri)
    versions: dict[str, int] = {}
    written = 0
    print("ready", flush=True)
    while not stop:
        stream = f"cart-{seed}-{chance.randrange(60)}"
        events = [
            NewEvent(
                chance.choice(["item_added", "item_removed", "looked_at"]),
                json.dumps({"amount": chance.randrange(100)}).encode(),
            )
            for _ in range(chance.randrange(1, 6))
        ]
        while not stop:
            expected = versions.get(stream, -1)
            try:
                client.append_to_stream(
                    stream,
                    current_version=StreamState.NO_STREAM if expected < 0 else expected,
                    events=events,
                    timeout=5,
                )
            except esdb.WrongCurrentVersion:
                # Nobody else writes these streams: an answer that was lost must be found again by
                # the ids
                raise
            except (esdb.EventStoreDBClientException, ValueError):
                time.sleep(0.1)
            else:
                versions[stream] = expected + len(events)
                written += len(events)
                break
        time.sleep(pause)
    print(json.dumps({"written": written}), flush=True)
    os._exit(0)


class Writers:
    """Some of them, in processes of their own."""

    def __init__(self, uri: str, count: int, pause: float = 0.01) -> None:
        command = [sys.executable, "-m", "tests.support.esdb_writers", uri]
        self._running = [
            subprocess.Popen(
                [*command, str(seed), str(pause)], cwd=ROOT, stdout=subprocess.PIPE, text=True
            )
            for seed in range(count)
        ]
        for process in self._running:
            assert process.stdout.readline() == "ready\n"

    def stop(self) -> int:
        for process in self._running:
            process.terminate()
        reports = [json.loads(finish(process)[0]) for process in self._running]
        assert all(process.returncode == 0 for process in self._running)
        self._running = []
        return sum(report["written"] for report in reports)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        for process in self._running:
            process.kill()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
