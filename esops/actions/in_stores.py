"""Actions on projections that run inside EventStoreDB: two events each, in a stream of esops' own
in that store, since there is no other place.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from esops.actions.action import RUNNING, WITHOUT_A_WORD, Action, PastAction, result_of
from esops.archive_format.lease import is_there, this_process
from esops.events import NewEvent, RecordedEvent
from esops.settings import StoreSettings
from esops.stores import open_store
from esops.stores.base import EventStore

STREAM = "$esops.actions"
KEPT = 2000
"""Events that the store keeps of the stream, by its metadata."""
_BEGAN, _ENDED = "$esops-action-began", "$esops-action-ended"


class StreamPlace:
    """One action in one store."""

    def __init__(self, action: Action, name: str, settings: StoreSettings) -> None:
        """Nothing is written yet; the store is opened for each event."""
        self._action, self._store, self._settings = action, name, settings
        self.name = f"store {name}"

    def begin(self) -> None:
        """Append that it began. Raises what the store says."""
        action = self._action
        with open_store(self._store, self._settings) as store:
            if next(iter(store.read_stream(STREAM, limit=1)), None) is None:
                bound = orjson.dumps({"$maxCount": KEPT})
                store.append(f"$${STREAM}", [NewEvent(_new(), "$metadata", bound)])
            began = {
                "id": action.id,
                "os_user": action.os_user,
                "command": action.command,
                "subject": action.subject,
                "projections": action.projections,
                "options": action.options,
                "esops": action.esops,
                **this_process(),
            }
            _append(store, _BEGAN, began)

    def keep(self) -> None:
        """Nothing: a store holds no session."""

    def end(self, exit_code: int) -> None:
        """Append how it ended. Raises what the store says."""
        with open_store(self._store, self._settings) as store:
            result = result_of(exit_code)
            _append(
                store, _ENDED, {"id": self._action.id, "result": result, "exit_code": exit_code}
            )

    def close(self) -> None:
        """Nothing is kept open."""


def past(
    store: EventStore, projection: str | None, since: timedelta | None, last: int
) -> list[PastAction]:
    """The newest actions of a store; of a projection, where one is named. What began on another
    machine and has not ended counts as running: nobody can tell from here.
    """
    found: list[PastAction] = []
    ends: dict[str, RecordedEvent] = {}
    for event in store.read_stream(STREAM, backwards=True, limit=KEPT):
        try:
            document = event.json()
            if event.type == _ENDED:
                ends[document["id"]] = event
                continue
            action = _past(event, document)
        except (KeyError, TypeError, ValueError):
            continue  # it was written by somebody else
        if projection is not None and projection not in action.projections:
            continue
        if len(found) == last or (since is not None and datetime.now(UTC) - action.at > since):
            break
        found.append(_ended(action, document, ends.get(action.id)))
    return found


def _past(event: RecordedEvent, document: dict[str, Any]) -> PastAction:
    at = event.recorded_at
    return PastAction(
        id=document["id"],
        at=at if at is not None else datetime.min.replace(tzinfo=UTC),
        role=None,
        os_user=document["os_user"],
        host=document["host"],
        command=document["command"],
        subject=document["subject"],
        projections=tuple(document["projections"]),
        options=document["options"],
        result=RUNNING,
        exit_code=None,
        ended_at=None,
        esops=document["esops"],
    )


def _ended(action: PastAction, document: dict[str, Any], end: RecordedEvent | None) -> PastAction:
    if end is not None:
        said = end.json()
        result, code = said.get("result", WITHOUT_A_WORD), said.get("exit_code")
        return replace(action, result=result, exit_code=code, ended_at=end.recorded_at)
    return replace(action, result=WITHOUT_A_WORD) if is_there(document) is False else action


def _append(store: EventStore, kind: str, document: dict[str, Any]) -> None:
    store.append(STREAM, [NewEvent(_new(), kind, orjson.dumps(document))])


def _new() -> str:
    return str(uuid.uuid4())
