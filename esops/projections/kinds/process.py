"""Any program as a projection: it reads events from its standard input and writes what to do to its
standard output, one JSON document a line.

docs/reference/process-protocol.md describes the protocol. One batch is under way at a time. The
program says when it is done with it, and the batch is committed with the checkpoint. Whatever
fails, the program is ended and started again at the last checkpoint, without what it kept in
memory.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import psycopg

from esops.errors import Refused, Unavailable
from esops.events import RecordedEvent
from esops.projections.definition import ProcessDefinition
from esops.projections.kinds.handlers import Buffered
from esops.projections.kinds.lines import MOST_BYTES, Lines, TooLong
from esops.projections.kinds.writes import operations
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent, Rows

PROTOCOL = 1
_BATCH = 5_000
_PATIENCE_TO_END = 5.0
_IN_BULK = 50
"""From this many upserts in a row, a COPY into a temporary table and one merge are faster."""


class Processing(Buffered):
    """Events, given to a program in batches."""

    most_events = 40_000

    def __init__(self, definition: ProcessDefinition, tables: VersionTables) -> None:
        """Make it ready; the program is started with the first batch."""
        super().__init__(tables)
        self._definition, self._tables = definition, tables
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: Lines | None = None
        self._number = 0
        self._waiting: list[Mapping[str, Any]] = []
        self._received = self._waiting_bytes = 0
        self._rows = {
            name: Rows(table, tables.keys[name], {}, tables.ensure_keys)
            for name, table in tables.by_name.items()
            if tables.keys[name]
        }

    def project(self, connection: psycopg.Connection) -> None:
        """Send batch after batch; encode the next one while the program works on the last."""
        self._start()
        slices = [self.events[at : at + _BATCH] for at in range(0, len(self.events), _BATCH)]
        self._send_batch(_batch(slices[0]))
        for following in [*slices[1:], None]:
            ready = None if following is None else _batch(following)
            self._until_done(connection)
            # What the program wrote waits: a row that several batches write is written once.
            if ready is not None:
                self._send_batch(ready)
        self._do(connection)

    def _send_batch(self, events: bytes) -> None:
        self._number += 1
        self._write(b'{"type":"batch","number":%d,"events":%b}\n' % (self._number, events))

    def _until_done(self, connection: psycopg.Connection) -> None:
        """Collect what the program writes until it is done with the batch.

        Raises BadEvent for an event that it rejects, Refused where it breaks the protocol.
        """
        number = self._number
        while True:
            message = self._receive()
            match message.get("type", "write" if "op" in message else None):
                case "write":
                    self._waiting += message.get("ops", [message])
                    self._waiting_bytes += self._received
                    if self._waiting_bytes >= MOST_BYTES:
                        self._do(connection)
                case "get":
                    # It must read what it wrote before.
                    self._do(connection)
                    if not isinstance(message.get("key"), dict):
                        raise self._violation(
                            "asked for a row without its key: `key` is an object of columns"
                        )
                    row = self.write.get(str(message.get("table")), message["key"])
                    self._send({"type": "row", "id": message.get("id"), "row": row})
                case "poison":
                    raise BadEvent(
                        f"the program rejects event {message.get('event')}: {message.get('error')}"
                    )
                case "done" if message.get("number") == number:
                    return
                case _:
                    raise self._violation(
                        f"wrote {_short(message)} in the middle of batch {number}"
                    )

    def flushed(self) -> None:
        """Tell the program that its batch is committed."""
        if self.events:
            try:
                self._send({"type": "committed", "number": self._number})
            except BadEvent:
                # It ended after its work was done. Another one is started with the next batch.
                self.close()
        super().flushed()

    def _do(self, connection: psycopg.Connection) -> None:
        """Write what was collected, in its order; a run of upserts of one table goes together."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        at = 0
        while at < len(waiting):
            first, end = waiting[at], at
            while end < len(waiting) and _alike(first, waiting[end]):
                end += 1
            if end - at >= _IN_BULK and first.get("table") in self._rows:
                rows, key = self._rows[first["table"]], self._tables.keys[first["table"]]
                # One statement cannot upsert a key twice: only the last row of a key counts.
                rows.shape.open(connection)
                latest = {
                    rows.shape.key(_key_of(each["row"], key)): each["row"]
                    for each in waiting[at:end]
                }
                rows.upsert(connection, list(latest.values()))
            else:
                end = max(end, at + 1)
                with connection.pipeline():
                    operations(self.write, waiting[at:end])
                self.write.check()
            at = end

    def _start(self) -> None:
        if self._process is not None:
            return
        command = list(self._definition.command)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the operator's own program
                command,
                cwd=self._definition.directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise Refused(
                f"the program {command[0]!r} cannot be started: {error.strerror}",
                hint="Correct the projection's `command` in esops.toml.",
            ) from None
        assert self._process.stdin is not None
        # See _write: a program that reads nothing must not block us.
        os.set_blocking(self._process.stdin.fileno(), False)
        # New for each program, so that nothing is left in it from the last one. A thread reads, for
        # the program may write while we still send it events.
        assert self._process.stdout is not None
        output: Any = self._process.stdout
        self._lines = Lines(io.BufferedReader(output, 1 << 20))
        tables = {
            name: {
                "columns": {each.name: each.type for each in table.columns},
                "key": list(self._tables.keys[name]),
            }
            for name, table in self._tables.by_name.items()
        }
        about = {
            "projection": self._tables.projection,
            "version": self._tables.version,
            "tables": tables,
        }
        self._send({"type": "hello", "protocol": PROTOCOL, **about})
        answer = self._receive()
        if answer.get("type") != "ready" or answer.get("protocol") != PROTOCOL:
            raise self._violation(
                f"answered {_short(answer)} instead of ready with protocol {PROTOCOL}"
            )

    def _send(self, document: Mapping[str, Any]) -> None:
        self._write(orjson.dumps(document, default=str) + b"\n")

    def _write(self, line: bytes) -> None:
        """Write a line. Raises Unavailable for a program that reads nothing until the timeout."""
        assert self._process is not None
        assert self._process.stdin is not None
        pipe, left, limit = (
            self._process.stdin.fileno(),
            memoryview(line),
            self._definition.timeout.total_seconds(),
        )
        deadline = time.monotonic() + limit
        while left:
            # The pipe is full while the program does not read; a plain write would wait for ever.
            _, ready, _ = select.select([], [pipe], [], 0.5)
            if not ready and time.monotonic() >= deadline:
                raise self._silent("has not read its input")
            try:
                written = os.write(pipe, left) if ready else 0
            except BlockingIOError:
                written = 0
            except OSError:
                raise self._ended() from None
            if written:
                left, deadline = left[written:], time.monotonic() + limit

    def _receive(self) -> Mapping[str, Any]:
        assert self._lines is not None
        try:
            line = self._lines.get(self._definition.timeout.total_seconds())
        except queue.Empty:
            raise self._silent("has written nothing") from None
        except TooLong:
            raise self._violation(
                f"wrote more than {MOST_BYTES >> 20} MB without a line break"
            ) from None
        self._received = len(line)
        if not line:
            raise self._ended()
        try:
            message = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise self._violation(
                f"wrote a line that is no JSON: {line[:200].decode(errors='replace')!r}"
            ) from None
        if not isinstance(message, dict):
            raise self._violation(
                f"wrote {line[:200].decode(errors='replace')!r}, which is no JSON object"
            )
        return message

    def _silent(self, what: str) -> Unavailable:
        limit = self._definition.timeout.total_seconds()
        return Unavailable(
            f"the program {self._definition.command[0]!r} {what} for {limit:g} s",
            hint="Find out why it hangs, or raise the projection's `timeout` in esops.toml.",
        )

    def _ended(self) -> BadEvent:
        """The error of a program that is gone: perhaps one event did it, and the runner finds
        it.
        """
        assert self._process is not None
        # The pipe closes a moment before the exit code is there.
        try:
            code = self._process.wait(_PATIENCE_TO_END)
        except subprocess.TimeoutExpired:
            return BadEvent("the program closed its input or output before it was done")
        return BadEvent(
            f"the program ended with {'signal' if code < 0 else 'code'} {abs(code)} before it "
            "was done"
        )

    def _violation(self, what: str) -> Refused:
        return Refused(
            f"the program {self._definition.command[0]!r} {what}",
            hint="See `esops docs process-protocol`; logs go to stderr.",
        )

    def close(self) -> None:
        """Close the program's input, which tells it to end; kill it where it does not."""
        process, self._process = self._process, None
        if process is None:
            return
        if self._lines is not None:
            self._lines.close()
        assert process.stdin is not None
        with contextlib.suppress(OSError):  # it may be gone already
            process.stdin.close()
        try:
            process.wait(_PATIENCE_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _alike(first: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether an operation is an upsert of the same columns of the same table."""
    return (
        first.get("op") == other.get("op") == "upsert"
        and first.get("table") == other.get("table")
        and isinstance(other.get("row"), dict)
        and isinstance(first.get("row"), dict)
        and first["row"].keys() == other["row"].keys()
    )


def _key_of(row: Mapping[str, Any], key: Sequence[str]) -> Any:
    """The key that a row has: a value, or a tuple for several columns."""
    parts = tuple(row.get(name) for name in key)
    return parts if len(parts) > 1 else parts[0]


def _short(message: Mapping[str, Any]) -> str:
    """A message of the program's as an error shows it."""
    return orjson.dumps(message).decode()[:200]


def _batch(events: Sequence[RecordedEvent]) -> bytes:
    # A time that ISO 8601 has no form for goes as Postgres prints it.
    return orjson.dumps([_document(event) for event in events], default=str)


def _document(event: RecordedEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
        "type": event.type,
        "recorded_at": event.moment,
        "tenant": event.tenant,
        "data": _payload(event.data, event),
        "metadata": _payload(event.metadata, event) if event.metadata else None,
    }


def _payload(content: bytes, event: RecordedEvent) -> Any:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise BadEvent(f"the payload of event {event.id} is no JSON: {error}") from None
    # The payload goes through as it is stored, which spares encoding it again. A line break in it
    # would end the message, so such a payload is encoded again.
    return value if b"\n" in content else orjson.Fragment(content)
