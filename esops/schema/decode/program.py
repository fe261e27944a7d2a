"""Any program that decodes events, by docs/reference/decode-protocol.md.

It answers for each event. Where it ends or is silent in the middle of a batch, what has no answer
is given to a new one, event by event, until one of them does it again.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from esops import exact_json
from esops.errors import Refused, Stopped, Unavailable, UsageError
from esops.events import RecordedEvent
from esops.projections.kinds.program import (
    NotStarted,
    Program,
    ProgramEnded,
    ProgramFault,
    ProgramSilent,
    ProtocolBroken,
    shown,
)
from esops.schema.decode.comparing import RoundTripComparer
from esops.schema.decode.fatal import FatalEvents
from esops.schema.decode.masking import masked
from esops.schema.decode.outcomes import (
    MOST_LONE_ENDS,
    DecodeOutcome,
    NotDecoded,
    NotTheSame,
    not_tried,
)

PROTOCOL = 1
_AT_ONCE = 500
"""Events of a batch."""
_PATIENCE_TO_END = 1.0
_NAME, _TEXT = 200, 2_000
_CLASS = re.compile(r"[\w.$:`<>\[\],+/]+")
"""A name of a class, in any language."""
_STARTS_SECONDS = 120.0
"""How long it may take to say that it is ready."""


@dataclass(frozen=True)
class ProgramTask:
    """What the program does."""

    command: Sequence[str]
    directory: Path
    timeout: float
    """Seconds that one event may take."""
    round_trip: bool
    comparer: RoundTripComparer
    show: bool
    """Whether messages may show what the program wrote."""


class ProgramDecoder:
    """One program."""

    def __init__(self, task: ProgramTask, fatal: FatalEvents) -> None:
        """Start it. Raises UsageError where that is not possible, Refused where it does not speak
        the protocol.
        """
        self._task, self._fatal = task, fatal
        self._closed = False
        self._number = 0
        self._program: Program | None = None
        self._said_of_itself = ""
        self._start()
        self.fingerprint = _fingerprint(task, self._said_of_itself)

    def decode(self, events: Sequence[RecordedEvent]) -> DecodeOutcome:
        """See EventDecoder."""
        outcome = DecodeOutcome()
        places = list(range(len(events)))
        while places:
            left_out = self._fatal.left_out(events)
            outcome.failures += [not_tried(at) for at in places if at in left_out]
            places = [at for at in places if at not in left_out]
            batch, places = places[:_AT_ONCE], places[_AT_ONCE:]
            # What the code has ended by is not given again in this batch, either.
            places = self._batch(events, batch, outcome) + places
        outcome.failures.sort()
        return outcome

    def stop(self) -> None:
        """See EventDecoder."""
        self._closed = True
        program = self._program
        if program is not None:
            program.kill()

    def close(self) -> None:
        """See EventDecoder."""
        self._closed = True
        self._end()

    def _batch(
        self, events: Sequence[RecordedEvent], batch: Sequence[int], outcome: DecodeOutcome
    ) -> list[int]:
        """Decode a batch; returns the places that it did not come to, since an event ended it."""
        waiting = list(batch)
        if self._exchange(events, waiting, outcome) is None:
            return []
        # One of these did it, most probably the first; but what it wrote last may be lost.
        self._start()
        in_a_row = 0
        while waiting:
            fault = self._exchange(events, waiting[:1], outcome)
            ended = isinstance(fault, ProgramEnded)
            if ended:
                # It may have ended by what came before: only what ends a new one is to blame.
                self._start()
                fault = self._exchange(events, waiting[:1], outcome)
            in_a_row = in_a_row + 1 if ended and fault is None else 0
            if in_a_row > MOST_LONE_ENDS:
                raise Unavailable(
                    f"the program {self._name!r} ends after each batch that it has answered",
                    hint="It has to read its input to the end. See `esops docs decode-protocol`.",
                )
            at = waiting.pop(0)
            if fault is not None:
                self._failed(events[at], at, fault, outcome)
                self._start()
                return waiting
        outcome.lone_ends += 1
        if outcome.lone_ends > MOST_LONE_ENDS:
            raise Unavailable(
                f"the program {self._name!r} ends again and again in the middle of a batch, and "
                "decodes the same events one by one",
                hint="It may run out of memory. What it wrote to stderr is above.",
            )
        return []

    def _exchange(
        self, events: Sequence[RecordedEvent], waiting: list[int], outcome: DecodeOutcome
    ) -> ProgramFault | None:
        """Send events, and take the answers of them, each of which leaves `waiting`. Returns why
        the program gave no more of them. Raises Refused for what is no answer.
        """
        if not waiting:
            return None
        assert self._program is not None
        self._number += 1
        documents = orjson.dumps([document(events[at]) for at in waiting], default=str)
        line = b'{"type":"batch","number":%d,"events":%b}\n' % (self._number, documents)
        try:
            self._program.write(line)
            while waiting:
                self._answered(events[waiting[0]], waiting[0], self._program.receive(), outcome)
                waiting.pop(0)
        except ProtocolBroken as broken:
            raise self._violation(broken) from None
        except ProgramFault as fault:
            if self._closed:
                raise Stopped from None
            return fault
        return None

    def _answered(
        self, event: RecordedEvent, at: int, answer: Mapping[str, Any], outcome: DecodeOutcome
    ) -> None:
        if answer.get("id") != event.id or not isinstance(answer.get("ok"), bool):
            raise ProtocolBroken(
                f"wrote something else than the answer for event {event.id}, which was next",
                shown(answer),
            )
        if not answer["ok"]:
            name, text = str(answer.get("exception") or "Failure"), str(answer.get("message") or "")
            where = str(answer.get("where") or "")
            if not _CLASS.fullmatch(name):  # a sentence, in which values may stand
                name = masked(name, event)
            outcome.failures.append(
                NotDecoded(at, name[:_NAME], masked(text, event), text[:_TEXT], where[:_TEXT])
            )
        elif self._task.round_trip:
            try:
                found = self._task.comparer.compare(event.data, _encoded(answer))
            except (TypeError, ValueError) as error:
                raise ProtocolBroken(
                    f"gave no `encoded` JSON for event {event.id}: {error}"
                ) from None
            if found:
                outcome.differences.append(NotTheSame(at, found))

    def _failed(
        self, event: RecordedEvent, at: int, fault: ProgramFault, outcome: DecodeOutcome
    ) -> None:
        self._fatal.ended(event)
        error, message = "ProgramEnded", f"the program {fault}"
        if isinstance(fault, ProgramSilent):
            error, message = "Timeout", f"the program {fault}; its process was ended"
        outcome.failures.append(NotDecoded(at, error, message, message, fatal=True))

    def _start(self) -> None:
        self._end()
        if self._closed:
            raise Stopped
        task = self._task
        try:
            self._program = Program(task.command, task.directory, _STARTS_SECONDS, own_group=True)
            if self._closed:  # by another thread, since it began
                self._end()
                raise Stopped
            hello = {"type": "hello", "protocol": PROTOCOL, "job": "decode"}
            self._program.send({**hello, "round_trip": task.round_trip})
            answer = self._program.receive()
        except NotStarted as fault:
            raise UsageError(
                f"the program {self._name!r} {fault}", hint="Correct --command."
            ) from None
        except ProtocolBroken as broken:
            raise self._violation(broken) from None
        except ProgramFault as fault:
            if self._closed:
                raise Stopped from None
            raise Unavailable(
                f"the program {self._name!r} {fault}: it did not say that it is ready",
                hint="What it wrote to stderr is above. See `esops docs decode-protocol`.",
            ) from None
        if answer.get("type") != "ready" or answer.get("protocol") != PROTOCOL:
            raise self._violation(
                ProtocolBroken(f"did not answer ready with protocol {PROTOCOL}", shown(answer))
            )
        self._said_of_itself = str(answer.get("code") or "")
        self._program.timeout = task.timeout

    def _end(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.close(_PATIENCE_TO_END)

    @property
    def _name(self) -> str:
        return self._task.command[0]

    def _violation(self, broken: ProtocolBroken) -> Refused:
        wrote = ""
        if broken.wrote:
            # It may be an event's content.
            wrote = f": {broken.wrote}" if self._task.show else " (--show-payload shows it)"
        return Refused(
            f"the program {self._name!r} {broken}{wrote}",
            hint="Logs go to stderr. See `esops docs decode-protocol`.",
        )


def document(event: RecordedEvent) -> dict[str, Any]:
    """An event as the protocol has it: a payload that is no JSON goes as base64."""
    made: dict[str, Any] = {
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
        "type": event.type,
        "recorded_at": event.moment,
        "tenant": event.tenant,
        "data": None,
        "metadata": None,
    }
    for name, content in (("data", event.data), ("metadata", event.metadata)):
        if not content:
            continue
        try:
            value = exact_json.loads(content)
        except orjson.JSONDecodeError:
            made["binary"] = True
            made[f"{name}_base64"] = base64.b64encode(content).decode()
            continue
        # It goes as it is stored, numbers and all. A line break would end the message.
        whole = content if b"\n" not in content else orjson.dumps(value, exact_json.fragment)
        made[name] = orjson.Fragment(whole)
    return made


def _encoded(answer: Mapping[str, Any]) -> bytes:
    if isinstance(answer.get("encoded_base64"), str):
        return base64.b64decode(answer["encoded_base64"], validate=True)
    if not isinstance(answer.get("encoded"), str):
        raise TypeError("it must be the payload's text")
    text: str = answer["encoded"]
    return text.encode()


def _fingerprint(task: ProgramTask, code: str) -> str:
    """Of the command, of the files that it names, and of what the program says of itself."""
    digest = sha256(code.encode())
    for word in task.command:
        digest.update(b"\0" + word.encode(errors="surrogateescape") + b"\0")
        # A word may be no name of a file at all, such as a script of many lines.
        with contextlib.suppress(OSError, ValueError):
            if (task.directory / word).is_file():
                digest.update(sha256((task.directory / word).read_bytes()).digest())
    return digest.hexdigest()[:16]
