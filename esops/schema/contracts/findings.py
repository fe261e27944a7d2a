"""What a check of contracts finds, counted and with samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from esops.events import RecordedEvent

SAMPLES = 3

FindingKind = Literal[
    "private-read",
    "unlisted-consumer",
    "unknown-reads",
    "private-outbox",
    "breaks-schema",
    "unnamed-field",
    "not-json",
    "code-fails",
    "code-changes",
    "no-schema",
    "unlisted-schema",
    "no-events",
]
MEANINGS: Mapping[FindingKind, str] = {
    "private-read": "a private event that others can read",
    "unlisted-consumer": "a reader of public events that the contract does not name",
    "unknown-reads": "a reader of which the store does not know what it reads",
    "private-outbox": "a private message in an outbox",
    "breaks-schema": "a public event that breaks its schema",
    "unnamed-field": "a field that the contract does not name",
    "not-json": "a public event that is not JSON",
    "code-fails": "a public event that the code cannot read",
    "code-changes": "a field of a public event that the code does not write as it was",
    "no-schema": "a public type without a schema",
    "unlisted-schema": "a schema of a type that is not public",
    "no-events": "a public type or place without events, or a contract without any",
}


ADVICE: Mapping[FindingKind, str] = {
    "private-read": "let the reader read only public types, or name it in `own` if it is the "
    "application's own",
    "unlisted-consumer": "name the reader in `consumers`, or in `own`",
    "unknown-reads": "name the reader in `own`, or say which types it reads in `processors` of "
    "its store",
    "private-outbox": "name the type in `types` of a contract for that outbox, or the "
    "destination in `own`",
    "breaks-schema": "correct the schema or upcast the old events: who reads them relies on it",
    "unnamed-field": "name the field in the schema, or leave it out of what is published",
    "not-json": "publish it as JSON, or leave it out of the contract",
    "code-fails": "`esops schema decode` shows each failure with its smallest event",
    "code-changes": "let the code write what the contract names, and nothing else",
    "no-schema": "write one, or make it with `esops schema infer`",
    "no-events": "check the spelling, if there should be some",
    "unlisted-schema": "name its type in `types`, or remove the file",
}
"""What to do about each kind."""


class FindingKey(NamedTuple):
    """What makes two occurrences one finding."""

    kind: FindingKind
    type: str | None = None
    path: str | None = None
    rule: str | None = None
    where: str | None = None
    """The reader, outbox or file that it is about."""


@dataclass
class ContractFinding:
    """Occurrences of one finding."""

    key: FindingKey
    detail: str = ""
    events: int = 0
    samples: list[Mapping[str, Any]] = field(default_factory=list)
    """Coordinates of the first events."""
    note: bool = False
    """Whether its reader gets nothing for now."""

    @property
    def is_note(self) -> bool:
        """Whether it does not count: a type or place without events, or a reader that gets nothing
        for now. That a whole contract has no events does count.
        """
        key = self.key
        return self.note or (
            key.kind == "no-events" and (key.type is not None or key.where is not None)
        )

    def add(self, event: RecordedEvent) -> None:
        """Count an event of the log."""
        self.events += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(_coordinates(event))

    def add_samples(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Take coordinates that somebody else noted, as many as are wanted."""
        self.samples += islice(samples, SAMPLES - len(self.samples))

    def add_message(self, table: str, id_: str) -> None:
        """Count a message of an outbox."""
        self.events += 1
        if len(self.samples) < SAMPLES:
            self.samples.append({"table": table, "row": id_})

    def as_dict(self) -> dict[str, Any]:
        """Under the documented names."""
        return {
            **self.key._asdict(),
            "detail": self.detail,
            "note": self.is_note,
            "events": self.events,
            "samples": self.samples,
        }


class ContractFindings:
    """The findings of one contract."""

    def __init__(self) -> None:
        """None yet."""
        self._found: dict[FindingKey, ContractFinding] = {}

    def of(self, key: FindingKey, detail: str = "") -> ContractFinding:
        """The finding of a key, made where it is new."""
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = ContractFinding(key, detail)
        return found

    def drop_unused(self) -> None:
        """Forget those that were made in advance and never counted."""
        self._found = {
            key: each
            for key, each in self._found.items()
            if each.events or key.kind in _WITHOUT_EVENTS
        }

    def __iter__(self) -> Iterator[ContractFinding]:
        order = list(MEANINGS)
        return iter(
            sorted(
                self._found.values(),
                key=lambda each: (order.index(each.key.kind), *(x or "" for x in each.key[1:])),
            )
        )


_WITHOUT_EVENTS = frozenset({"unknown-reads", "no-schema", "unlisted-schema", "no-events"})


def _coordinates(event: RecordedEvent) -> Mapping[str, Any]:
    tenant = {"tenant": event.tenant} if event.tenant else {}
    return {
        **tenant,
        "stream": event.stream,
        "version": event.version,
        "position": str(event.position),
    }
