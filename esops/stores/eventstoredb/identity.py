"""Whether a log is still the one that a checkpoint was taken in, though a scavenge may have removed
the event at the checkpoint.

A mark names the record at the checkpoint by its id, stream and revision, and the epoch that it was
written in: a leader begins one whenever it begins to lead, so that a node that was restored to an
earlier time writes all that is new in epochs of its own. The record is looked for again before work
resumes. Where it is not there, only what a scavenge may remove explains it: the stream was
truncated beyond it, is bounded by its metadata, or was deleted; and then the epoch has to be the
same. Epochs are told by the stream `$epoch-information` (EpochManager.cs in the server's source);
where a server does not tell them, the stream decides alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from esops.errors import (
    AnotherLog,
    ConnectionLost,
    OtherPositions,
    Refused,
    Unavailable,
    UnreadableMark,
)
from esops.events import Position, RecordedEvent
from esops.stores.eventstoredb import bulk, live, lookup
from esops.stores.eventstoredb.connect import Connector, Link
from esops.stores.eventstoredb.errors import StreamGone
from esops.stores.parts import Mark

EPOCHS = "$epoch-information"
_WHAT = "read $all"


def mark(link: Link, position: Position) -> Mark | None:
    """The mark of a log at a position: of the record there; or of the next, or the last, where a
    scavenge was quicker.
    """
    record = bulk.record_at(link, position)
    if record is None:
        # The record was the last of the log, and a scavenge has removed it.
        found = bulk.first(link, bulk.read_all_request(position, backwards=True, limit=1), _WHAT)
        if not found:
            return None
        record = found[0]
    return {
        "id": record.id,
        "position": str(record.position),
        "stream": record.stream,
        "version": record.version,
        "epoch": _epoch(link, record.position),
    }


def check_parts(name: str, position: Position) -> None:
    """Raises OtherPositions where a position is of another kind of store; `name` is this one's."""
    if len(position) != 2:
        raise OtherPositions(
            f"{position} is not a position of store {name}, whose positions have 2 parts, "
            "commit:prepare",
            hint="Name the store that the read model was built from. If this is the right one: "
            "esops projection recover PROJECTION.",
        )


def check_position(position: Position | None) -> None:
    """Raises ValueError for a position that is of another kind of store."""
    if position is not None and len(position) != 2:
        raise ValueError(
            f"{position} is not a position of this store: those have 2 parts, commit:prepare"
        )


def mark_of(event: RecordedEvent) -> Mark:
    """The mark of a record that was read. It says nothing about the epoch, so it is recognised only
    while the record is there.
    """
    return {
        "id": event.id,
        "position": str(event.position),
        "stream": event.stream,
        "version": event.version,
    }


def recognise(link: Link, name: str, known: Mark, *, removed: bool = False) -> None:
    """Raises AnotherLog where the log of a store (by its name) is not the one that a mark
    was made in.
    """
    try:
        position, known_id = Position.parse(known["position"]), str(known["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableMark from error
    deadline = time.monotonic() + live.BEHIND
    # A follower that is behind ends earlier, too, for a moment; another log does so for ever.
    while (record := _record_at(link, name, position)) is None:
        if time.monotonic() >= deadline:
            raise _other(name, f"its log ends before position {position}")
        time.sleep(live.LOOK_EVERY)
    if record.position == position:
        if record.id != known_id:
            raise _other(name, f"another event is at position {position}")
    elif not removed and not (
        _may_be_scavenged(link, known) and _same_epoch(link, position, known)
    ):
        raise _other(
            name,
            f"the event at position {position} does not exist any more, and no scavenge can have "
            "removed it",
        )


def tells(link: Link, position: Position, known: Mark) -> bool | None:
    """Whether a mark was made in this log; None where its record is gone."""
    if len(position) != 2:
        return False
    try:
        record = bulk.record_at(link, position)
        known_id = str(known["id"])
        at = Position.parse(known["position"])
    except Refused:
        return False  # in the middle of an event
    except (KeyError, TypeError, ValueError):
        return None
    if record is None or record.position != at:
        return None
    return record.id == known_id


def _record_at(link: Link, name: str, position: Position) -> RecordedEvent | None:
    try:
        return bulk.record_at(link, position)
    except Refused:
        raise _other(name, f"position {position} is in the middle of an event") from None


def _other(name: str, why: str) -> AnotherLog:
    return AnotherLog(
        f"store {name} is not the log that the checkpoint was taken in: {why}",
        hint="The store was restored to an earlier time or replaced, or the URI names another "
        "cluster. Name the right store. If this is the right one: esops projection recover "
        "PROJECTION.",
    )


def _may_be_scavenged(link: Link, known: Mark) -> bool:
    """Whether the stream of a record that is gone says that it could go."""
    stream, version = str(known["stream"]), int(known["version"])
    what = f"read stream {stream!r}"
    try:
        following = bulk.first(
            link, bulk.read_stream_request(stream, revision=version, limit=1), what
        )
        # Read from the record's own revision on: a stream that still begins with it shows that no
        # scavenge took it.
        if following:
            return following[0].version > version
        last = bulk.first(link, bulk.read_stream_request(stream, backwards=True, limit=1), what)
        if last:
            return last[0].version > version
        settings, _ = lookup.metadata(link, stream)
    except StreamGone:
        return True
    return any(key in settings for key in ("$tb", "$maxAge", "$maxCount"))


def _same_epoch(link: Link, position: Position, known: Mark) -> bool:
    now = _epoch(link, position)
    return "epoch" in known and (known["epoch"] is None or now is None or now == known["epoch"])


def _epoch(link: Link, position: Position) -> str | None:
    """The id of the event that tells of the epoch in which a position was written; None where the
    server tells of none, or not to us.
    """
    before: int | None = None
    try:
        while True:
            request = bulk.read_stream_request(EPOCHS, revision=before, backwards=True, limit=10)
            found = bulk.first(link, request, f"read stream {EPOCHS}")
            if not found:
                return None
            # Newest first, so the first that began before the position is the one.
            for event in found:
                if _begun_at(event) <= position[0]:
                    return event.id
            before = found[-1].version - 1
            if before < 0:
                return None
    except ConnectionLost:
        # It says nothing about the epoch, while a missing right does: there is none to compare.
        raise
    except (StreamGone, Unavailable, ValueError):
        return None


def _begun_at(event: RecordedEvent) -> int:
    """Where an epoch begins in the log.

    Reads of streams tell no positions before 22.10, but the event does.
    """
    document: dict[str, Any] = {
        str(key).lower(): value for key, value in orjson.loads(event.data).items()
    }
    return int(document["epochposition"]) if "epochposition" in document else int(event.position[0])


class NodeIdentity:
    """LogIdentity of a node, by the record at a position."""

    covers_before = False  # a read that continues at a mark looks for its record again

    def __init__(self, name: str, connector: Connector) -> None:
        """`name` is the store's."""
        self._name, self._connector = name, connector
        self._known: tuple[Position, Mark] | None = None
        """The last position whose mark was made or recognised."""

    def session(self) -> object | None:
        """None: a channel makes new connections by itself, and does not say so."""
        return None

    def check_reach(self, position: Position) -> None:
        """By its parts; where the log ends is seen when the record is looked for."""
        check_parts(self._name, position)

    def mark_of(self, events: Sequence[RecordedEvent]) -> Mark:
        """The last record's id, stream and revision."""
        return mark_of(events[-1])

    def mark(self, position: Position) -> Mark | None:
        """The record there, and its epoch."""
        check_position(position)
        with self._connector.talking("read $all") as link:
            found = mark(link, position)
        self._known = None if found is None else (position, found)
        return found

    def recognise(self, position: Position, mark: Mark, *, removed: bool = False) -> None:
        """By the record at the mark, which each read that continues there looks for again."""
        with self._connector.talking("read $all") as link:
            recognise(link, self._name, mark, removed=removed)
        self._known = (position, mark)

    def tells(self, position: Position, mark: Mark) -> bool | None:
        """By the record at the mark."""
        with self._connector.talking("read $all") as link:
            return tells(link, position, mark)

    def recognise_again(self, after: Position | None) -> None:
        """Before a read after a position, where that is the one that was recognised: a reader's own
        page in the middle of the log needs no second look.
        """
        if self._known is not None and self._known[0] == after:
            self.recognise(*self._known)
