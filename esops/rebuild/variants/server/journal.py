"""The journal of a projection's rebuilds, as a stream of the store that the projection runs in.

Each entry is appended with the version that was read before. So if two processes rebuild the same
projection, the next entry of the second one fails, and it stops.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson

from esops.errors import Busy
from esops.events import NewEvent
from esops.rebuild import journal
from esops.rebuild.variants.server.inside import projections_in
from esops.stores.base import EventStore, WrongExpectedVersion

_TYPE = "$esops-"
UNFINISHED = {
    journal.PLANNED,
    journal.PROVISIONED,
    journal.CATCHING_UP,
    journal.FOLLOWING,
    journal.VERIFIED,
    journal.PAUSED,
}


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """One version: its projection's name in the server, and its state (active, standby, building,
    retired or aborted).
    """

    version: int
    name: str
    state: str
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ServerJournalEntry:
    """The latest rebuild, as the journal has it.

    `resume_state` is the state from which a paused rebuild is resumed; `seconds` is its working
    time so far.
    """

    rebuild: int
    state: str
    from_version: int | None
    to_version: int
    options: Mapping[str, Any]
    resume_state: str | None = None
    verification: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @property
    def unfinished(self) -> bool:
        """Whether it can be resumed or aborted."""
        return self.state in UNFINISHED


@dataclass
class ServerJournal:
    """A projection's journal, folded. `write` adds to it."""

    store: EventStore
    projection: str
    versions: dict[int, ServerVersion] = field(default_factory=dict)
    latest: ServerJournalEntry | None = None
    before: int | None = None
    """The version that served before the one that serves now."""
    rolled_back: datetime | None = None
    """When a rollback made the version serve that serves now."""
    _at: int = -1

    @property
    def stream(self) -> str:
        """The stream's name."""
        return f"$esops-{self.projection}"

    @property
    def active(self) -> ServerVersion | None:
        """The version that serves."""
        return next((one for one in self.versions.values() if one.state == "active"), None)

    @classmethod
    def read(cls, store: EventStore, projection: str) -> ServerJournal:
        """Read a projection's journal.

        Where it is empty and the server has a projection of that name, that one is version 1 and
        serves.
        """
        found = cls(store, projection)
        for event in store.read_stream(found.stream):
            found._apply(event.type.removeprefix(_TYPE), event.json(), event.recorded_at)
            found._at = event.version
        if not found.versions and projections_in(store).get(projection) is not None:
            found.versions[1] = ServerVersion(1, projection, "active")
        return found

    def name_of(self, version: int) -> str:
        """A version's name in the server."""
        return self.projection if version == 1 else f"{self.projection}-v{version}"

    def write(self, kind: str, **data: Any) -> None:
        """Append an entry. Raises Busy where another process wrote since it was read."""
        event_type = f"{_TYPE}{kind}"
        event = NewEvent(
            str(uuid.uuid4()), event_type, orjson.dumps({"projection": self.projection, **data})
        )
        try:
            self.store.append(self.stream, [event], self._at)
        except WrongExpectedVersion:
            raise Busy(
                f"another process is working on {self.projection}",
                hint=f"See the stream {self.stream} for what it did.",
            ) from None
        # Folded as if it had been read back, so that memory and stream cannot differ.
        self._at += 1
        self._apply(kind, data, datetime.now(UTC))

    def _apply(self, kind: str, data: Mapping[str, Any], at: datetime | None) -> None:
        match kind:
            case "adopted":
                self._set(data["version"], "active", at)
            case "planned":
                self.latest = ServerJournalEntry(
                    data["rebuild"], journal.PLANNED, data["from"], data["to"], data["options"]
                )
                self._set(data["to"], "building", at)
            case "entered":
                self._enter(data, at)
            case "rolled-back" | "moved":
                self._move(data["from"], data["to"], at)
                if kind == "rolled-back":
                    self.rolled_back = at
                    if self.latest is not None:
                        self.latest = replace(self.latest, state=journal.ROLLED_BACK)
            case "retired":
                self._set(data["version"], "retired", at)

    def _enter(self, data: Mapping[str, Any], at: datetime | None) -> None:
        assert self.latest is not None
        state, entry = data["state"], self.latest
        self.latest = replace(
            entry,
            state=state,
            resume_state=data.get("resume_state"),
            verification=data.get("verification", entry.verification),
            seconds=entry.seconds + data.get("seconds", 0.0),
        )
        if state == journal.SWITCHED:
            self._move(entry.from_version, entry.to_version, at)
        elif state == journal.ABORTED:
            self._set(entry.to_version, "aborted", at)
        # It was built to stand by, so it is done, although its rebuild never came to a switch.
        elif state == journal.VERIFIED and not entry.options.get("switch", True):
            self._set(entry.to_version, "standby", at)

    def _move(self, old: int | None, new: int, at: datetime | None) -> None:
        if old is not None:
            self._set(old, "standby", at)
        self.before, self.rolled_back = old, None
        self._set(new, "active", at)

    def _set(self, version: int, state: str, at: datetime | None) -> None:
        self.versions[version] = ServerVersion(version, self.name_of(version), state, at)
