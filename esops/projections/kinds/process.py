"""Any program as a projection: it reads events from its standard input and writes what to do to its
standard output, one JSON document a line.

docs/reference/process-protocol.md describes the protocol. One batch is under way at a time. The
program says when it is done with it, and the batch is committed with the checkpoint. Whatever
fails, the program is ended and started again at the last checkpoint, without what it kept in
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg

from esops.errors import Refused, Unavailable
from esops.events import RecordedEvent
from esops.projections.definition import ProcessDefinition
from esops.projections.kinds.handlers import Buffered
from esops.projections.kinds.lines import MOST_BYTES
from esops.projections.kinds.program import (
    NotStarted,
    Program,
    ProgramEnded,
    ProgramSilent,
    ProtocolBroken,
    shown,
)
from esops.projections.kinds.writes import operations
from esops.projections.projector import VersionTables
from esops.readmodel.rows import BadEvent, Rows

PROTOCOL = 1
_BATCH = 5_000
_IN_BULK = 50
"""From this many upserts in a row, a COPY into a temporary table and one merge are faster."""


class Processing(Buffered):
    """Events, given to a program in batches."""

    most_events = 40_000

    def __init__(self, definition: ProcessDefinition, tables: VersionTables) -> None:
        """Make it ready; the program is started with the first batch."""
        super().__init__(tables)
        self._definition, self._tables = definition, tables
        self._program: Program | None = None
        self._number = 0
        self._waiting: list[Mapping[str, Any]] = []
        self._waiting_bytes = 0
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
                    assert self._program is not None
                    self._waiting_bytes += self._program.received
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
                    raise self._violation(f"wrote {shown(message)} in the middle of batch {number}")

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
        if self._program is not None:
            return
        definition = self._definition
        with self._faults():
            self._program = Program(
                definition.command, definition.directory, definition.timeout.total_seconds()
            )
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
                f"answered {shown(answer)} instead of ready with protocol {PROTOCOL}"
            )

    def _send(self, document: Mapping[str, Any]) -> None:
        assert self._program is not None
        with self._faults():
            self._program.send(document)

    def _write(self, line: bytes) -> None:
        assert self._program is not None
        with self._faults():
            self._program.write(line)

    def _receive(self) -> Mapping[str, Any]:
        assert self._program is not None
        with self._faults():
            return self._program.receive()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        """Raise what a program's faults mean for a projection."""
        try:
            yield
        except ProgramEnded as ended:
            # Perhaps one event did it, and the runner finds it.
            raise BadEvent(f"the program {ended}") from None
        except NotStarted as fault:
            raise Refused(
                f"the program {self._definition.command[0]!r} {fault}",
                hint="Correct the projection's `command` in esops.toml.",
            ) from None
        except ProgramSilent as silent:
            raise Unavailable(
                f"the program {self._definition.command[0]!r} {silent}",
                hint="Find out why it hangs, or raise the projection's `timeout` in esops.toml.",
            ) from None
        except ProtocolBroken as broken:
            wrote = f": {broken.wrote}" if broken.wrote else ""
            raise self._violation(f"{broken}{wrote}") from None

    def _violation(self, what: str) -> Refused:
        return Refused(
            f"the program {self._definition.command[0]!r} {what}",
            hint="See `esops docs process-protocol`; logs go to stderr.",
        )

    def close(self) -> None:
        """Close the program's input, which tells it to end; kill it where it does not."""
        program, self._program = self._program, None
        if program is not None:
            program.close()


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
