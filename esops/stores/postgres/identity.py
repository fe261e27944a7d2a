"""Whether a log in Postgres is still the one that a checkpoint was taken in.

Numbers do not tell: a store that was restored to an earlier time gives its numbers to new events. A
mark names the newest events up to a position by their ids, and where they were: the cluster, its
timeline, the database and the table. Later each event is looked for again.

- Another event at its position, or the same event at another: another history.
- The event is gone: it was deleted if its stream has newer versions, or if the server has run
  without a break since. Otherwise it may have been lost, and that is refused.

Several events, and not only the last: numbers are drawn before the commit, so what a restore or a
failover lost need not have the highest numbers.

Where the order is by transaction ids (Emmett), ids of another cluster cannot be compared. After a
dump and a restore it has to be proven that nothing was or will be passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import sql

from esops.errors import AnotherLog, OtherPositions, OtherTransactions, UnreadableMark
from esops.events import Position, RecordedEvent
from esops.stores.parts import Mark
from esops.stores.postgres.identity_queries import SQL, filled_in, names_of, queries_of
from esops.stores.postgres.layouts.base import TRUE, Layout
from esops.stores.postgres.marked_events import (
    MARKED,
    Marked,
    MarkedEvents,
    another_log,
    is_same,
    marked_events,
    same_place,
)

_MOST_UNREAD = 100_000
"""Up to this many unread events are looked through for a proof that ids can be compared."""

T = TypeVar("T")
_RECENT = 0.5
"""Seconds for which an answer of the same session counts, where several versions ask the same."""


@dataclass(frozen=True, slots=True)
class _Recent(Generic[T]):
    """What was found out about a position a moment ago."""

    on: psycopg.Connection
    position: Position
    found: T
    at: float = field(default_factory=time.monotonic)

    def holds(self, on: psycopg.Connection) -> bool:
        """Whether it can be taken for an answer of now."""
        return self.on is on and time.monotonic() - self.at < _RECENT


class PostgresIdentity:
    """LogIdentity of a Postgres store."""

    covers_before = True

    def __init__(
        self,
        name: str,
        layout: Layout,
        control: Callable[[], AbstractContextManager[psycopg.Connection]],
    ) -> None:
        """`name` is the store's; `control` gives its connection."""
        self._name, self._layout, self._control = name, layout, control
        self._queries, self._names = queries_of(layout), names_of(layout)
        self._events = MarkedEvents(name, layout)
        self._place: tuple[psycopg.Connection, Mapping[str, Any]] | None = None
        self._marked_last: _Recent[Mark] | None = None
        self._reached_last: _Recent[int] | None = None

    def session(self) -> object | None:
        """The connection, which a failover or a restart ends. None where the numbers of deleted
        events are given to others, for which nobody has to restart anything.
        """
        if not self._layout.sequences:
            return None
        with self._control() as on:
            return on

    def mark(self, position: Position) -> Mark | None:
        """The newest events at or before the position, and where they are."""
        self._check_parts(position)
        with self._control() as on:
            last = self._marked_last
            if last is not None and last.position == position and last.holds(on):
                return last.found
            rows = on.execute(self._newest(position)).fetchall()
            mark = {
                "events": [list(self._events.from_row(row)) for row in rows],
                "log": self._place_of(on),
                "end": self._drawn(on),
            }
            self._marked_last = _Recent(on, position, mark)
            return mark

    def mark_of(self, events: Sequence[RecordedEvent]) -> Mark | None:
        """The events alone; None where their ids are made up, and so tell nothing of what they
        are.
        """
        if self._layout.made_up_ids:
            return None
        place = None if self._place is None else dict(self._place[1])
        marked = [
            Marked(str(each.position), each.id, each.stream, each.version, each.tenant, None)
            for each in reversed(events[-MARKED:])
        ]
        return {"events": [list(each) for each in marked], "log": place}

    def check_reach(self, position: Position) -> None:
        """By the sequence, the table, and the cluster's transaction ids."""
        self._check_parts(position)
        with self._control() as on:
            last = self._reached_last
            if last is not None and last.position == position and last.holds(on):
                return
            self._check_reach(on, position)
            self._reached_last = _Recent(on, position, position[-1])

    def recognise(self, position: Position, mark: Mark, *, removed: bool = False) -> None:
        """Look for each event of the mark, and whether transaction ids can be compared."""
        self._check_parts(position)
        events = marked_events(mark)
        with self._control() as on:
            self._place = None
            place = self._place_of(on)
            if self._layout.by_transactions:
                self._check_transactions(on, position, mark, place)
            drawn = self._check_reach(on, position)
            # A backup that is restored into a server that runs sets the sequence back.
            unbroken = (
                # Without a sequence nothing tells that no event was taken away and another put in
                # its place.
                bool(self._layout.sequences)
                and mark.get("log") is not None
                and mark["log"] == place
                and drawn >= (mark.get("end") or 0)
            )
            self._events.check(on, events, may_be_gone=removed or unbroken, unbroken=unbroken)

    def tells(self, position: Position, mark: Mark) -> bool | None:
        """By the events of the mark, and by the table, where that is in the same cluster."""
        try:
            self.recognise(position, mark, removed=True)
        except (OtherTransactions, UnreadableMark):
            return None
        except AnotherLog:
            return False
        events = marked_events(mark)
        with self._control() as on:
            there = self._events.there(on, events) if events else {}
            gone = [each for each in events if each.position not in there]
            # A version that has another position now was written again.
            if any(self._events.at_version(on, each) is not None for each in gone):
                return False
            if any(is_same(now, each) for each in events for now in there.get(each.position, ())):
                return True
            # Of one tenant's events, the table does not tell.
            if self._layout.scope is TRUE and same_place(mark.get("log") or {}, self._place_of(on)):
                return True
        return None

    # -- positions

    def _check_parts(self, position: Position) -> None:
        parts = len(self._layout.order)
        if len(position) != parts:
            raise OtherPositions(
                f"{position} is not a position of store {self._name}, whose positions have "
                f"{parts} part{'s' * (parts > 1)}: its `ordering` or layout was changed",
                hint="Set it back to what the read model was built with. To keep it, rebuild the "
                "read model: esops projection recover PROJECTION.",
            )

    def _drawn(self, on: psycopg.Connection) -> int:
        """The last number that the sequence gave out."""
        return int(on.execute(self._queries["drawn"]).fetchone()[0])  # type: ignore[index]

    def _check_reach(self, on: psycopg.Connection, position: Position) -> int:
        """Returns the last number that the sequence gave out."""
        drawn = self._drawn(on)
        if self._layout.by_transactions:
            upcoming = on.execute(self._queries["transactions"]).fetchone()[0]  # type: ignore[index]
            if position[0] >= upcoming:
                raise another_log(
                    self._name,
                    f"transaction {position[0]} of the checkpoint has not happened yet in this "
                    f"cluster, whose next one is {upcoming}",
                )
        if position[-1] <= drawn:
            return drawn
        # A sequence that is behind its table is another trouble, and has its own error.
        highest = None
        if not self._layout.by_transactions:
            highest = on.execute(self._queries["highest"]).fetchone()[0]  # type: ignore[index]
        if position[-1] > max(drawn, highest or 0):
            raise another_log(
                self._name, f"position {position} lies beyond its end, {max(drawn, highest or 0)}"
            )
        return drawn

    # -- transaction ids

    def _check_transactions(
        self,
        on: psycopg.Connection,
        position: Position,
        mark: Mark,
        place: Mapping[str, Any],
    ) -> None:
        """Raises OtherTransactions where the cluster is or may be another, unless every event that
        was written since is after the position, and in the order of its stream.
        """
        log = mark.get("log") or {}
        # A server that denies its identifier is the same one where it has run without a break.
        if log == place or (log.get("system") is not None and log["system"] == place["system"]):
            return
        upcoming, oldest = on.execute(self._queries["transactions"]).fetchone()  # type: ignore[misc]
        newest = on.execute(self._queries["newest_transaction"]).fetchone()
        written = newest[0] if newest is not None else 0
        # In its own cluster a checkpoint is always before the oldest transaction that runs. Events
        # beyond that one are read when it has ended, wherever they come from.
        if position[0] >= oldest or written >= upcoming:
            raise self._foreign(
                f"the checkpoint and the events have transaction ids up to "
                f"{max(position[0], written)}, and the next one here is {upcoming}"
            )
        end = mark.get("end")
        up_to = self._layout.up_to(position)
        passed = on.execute(
            self._query("passed", up_to=up_to, end=sql.Literal(end or 0))
        ).fetchone()
        if end is None or passed is None or passed[0]:
            raise self._foreign("events that were written here lie before the checkpoint")
        count, back = on.execute(  # type: ignore[misc]
            self._query(
                "unread", beyond=self._layout.beyond(position), most=sql.Literal(_MOST_UNREAD)
            )
        ).fetchone()
        if back or count >= _MOST_UNREAD:
            raise self._foreign("the order of events that are not read yet cannot be proven")

    def _foreign(self, why: str) -> OtherTransactions:
        return OtherTransactions(
            f"store {self._name} is in another cluster than the one that the checkpoint was taken "
            "in, and its order is by transaction ids, which count in one cluster only: "
            f"{why}",
            hint='Read it with ordering = "position", and rebuild: esops projection recover '
            "PROJECTION.",
        )

    # -- words and queries

    def _newest(self, position: Position) -> sql.Composed:
        up_to = self._layout.up_to(position)
        return self._query("newest", up_to=up_to, most=sql.Literal(MARKED))

    def _query(self, name: str, **more: sql.Composable) -> sql.Composed:
        return filled_in(name, self._names, **more)

    def _place_of(self, on: psycopg.Connection) -> Mapping[str, Any]:
        """Where the events are; asked once for each connection, which a restore would end."""
        if self._place is None or self._place[0] is not on:
            row = on.execute(self._queries["cluster"]).fetchone()
            assert row is not None
            self._place = (
                on,
                {
                    "system": _allowed(on, "system"),
                    "timeline": _allowed(on, "timeline"),
                    **dict(zip(("database", "table", "started", "counting"), row, strict=True)),
                },
            )
        return self._place[1]


def _allowed(on: psycopg.Connection, question: str) -> str | None:
    """An answer that a managed server may deny; None where it does."""
    try:
        row = on.execute(SQL[question]).fetchone()
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.UndefinedFunction,
        psycopg.errors.FeatureNotSupported,
        psycopg.errors.ObjectNotInPrerequisiteState,
    ):
        return None
    return None if row is None else str(row[0])
