"""The events that a mark of a log names, and whether they are still there (identity.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from esops.archive_format.snapshots import is_snapshot
from esops.errors import AnotherLog, UnreadableMark
from esops.events import Position
from esops.stores.parts import Mark
from esops.stores.postgres.identity_queries import filled_in, names_of
from esops.stores.postgres.layouts.base import Layout

MARKED = 32
"""Events that a mark names."""
_RESTORED = (
    "The store was restored to an earlier time or replaced, or the DSN names another database. "
    "Name the right store. If this is the right one: esops projection recover PROJECTION."
)


class Marked(NamedTuple):
    """An event as a mark names it. `content`: what tells it from another where ids are made up."""

    position: str
    id: str
    stream: str
    version: int
    tenant: str
    content: str | None


def is_same(one: Marked, other: Marked) -> bool:
    """Whether two are one event."""
    return (one.id, one.content) == (other.id, other.content)


def rewritten(now: Marked, before: Marked) -> bool:
    """Whether an event that has no id of its own may be the one before with other content, as where
    personal data was masked.

    In a log that was restored to an earlier time, no event after such a one is the same.
    """
    return now.id == before.id and now.content != before.content


def marked_events(mark: Mark) -> list[Marked]:
    """The events that a mark names. Raises UnreadableMark where it is none of ours."""
    try:
        events = [Marked(*each) for each in mark["events"]]
        for each in events:
            Position.parse(each.position)
        dict(mark.get("log") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnreadableMark from error
    return events


def same_place(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two logs are one table, as far as that can be known for sure."""
    names = ("system", "timeline", "database", "table")
    known = one.get("system") is not None and one.get("timeline") is not None
    return one == other or (known and all(one.get(each) == other.get(each) for each in names))


def another_log(store: str, why: str) -> AnotherLog:
    """The error of a store that is not the log that a checkpoint was taken in."""
    return AnotherLog(
        f"store {store} is not the log that the checkpoint was taken in: {why}", hint=_RESTORED
    )


class MarkedEvents:
    """Looks for the events of marks in the table of a layout."""

    def __init__(self, name: str, layout: Layout) -> None:
        """`name` is the store's."""
        self._name, self._layout, self._names = name, layout, names_of(layout)

    def check(
        self,
        on: psycopg.Connection,
        events: Sequence[Marked],
        *,
        may_be_gone: bool,
        unbroken: bool,
    ) -> None:
        """Look for each event of a mark, the newest first.

        `may_be_gone`: whether it is known that one that is not there was deleted; `unbroken`:
        whether the server has run without a break since the mark was made.

        Raises AnotherLog where the log is another one than that of the mark.
        """
        if not events:
            return
        there = self.there(on, events)
        same = {
            each
            for each in events
            if any(is_same(now, each) for now in there.get(each.position, ()))
        }
        newest_same = max((Position.parse(each.position) for each in same), default=None)
        marked = {each.id for each in same}
        for each in events:
            if each in same:
                self._check_alone(each, events, there[each.position])
                continue
            beside = there.get(each.position, [])
            others = [now for now in beside if now.id not in marked]
            follows = newest_same is not None and newest_same > Position.parse(each.position)
            if any(
                self._replaced(on, each, now) or (rewritten(now, each) and (unbroken or follows))
                for now in others
            ):
                continue
            # Where events share a number, a mark may name only some of those at its lowest one.
            cut = each.position == events[-1].position and len(others) < len(beside)
            if others and not cut:
                raise another_log(
                    self._name,
                    f"at position {each.position} is another event now, version "
                    f"{others[0].version} of stream {others[0].stream!r}",
                )
            if not may_be_gone:
                self._check_gone(on, each)

    def _check_alone(
        self, event: Marked, events: Sequence[Marked], there: Sequence[Marked]
    ) -> None:
        """Raises AnotherLog where another event was given the number of a marked one. Emmett has no
        unique index that prevents it.
        """
        if self._layout.shares_numbers:
            return
        if len(events) >= MARKED and event.position == events[-1].position:
            return  # a mark may name only some of those at its lowest number
        marked = {each.id for each in events}
        for now in there:
            if now.id not in marked:
                raise AnotherLog(
                    f"store {self._name} has given position {event.position} twice: version "
                    f"{now.version} of stream {now.stream!r} came there after it had been read",
                    hint="The sequence of the numbers was set back. Set it to the highest number; "
                    "then: esops projection recover PROJECTION.",
                )

    def there(
        self, on: psycopg.Connection, events: Sequence[Marked]
    ) -> Mapping[str, Sequence[Marked]]:
        """What is now at the positions of a mark's events: in a table of one's own, one number may
        be that of several events.
        """
        highest, lowest = (Position.parse(each.position) for each in (events[0], events[-1]))
        bounds = {
            "from": self._layout.beyond(lowest, strictly=False),
            "up_to": self._layout.up_to(highest),
            "ids": sql.SQL(", ").join(sql.Literal(each.id) for each in events),
        }
        found: dict[str, list[Marked]] = {}
        for now in map(self.from_row, on.execute(self._query("between", **bounds))):
            found.setdefault(now.position, []).append(now)
        return found

    def _check_gone(self, on: psycopg.Connection, event: Marked) -> None:
        """Raises AnotherLog unless something says that an event was deleted."""
        if self.at_version(on, event) is not None:
            raise another_log(
                self._name,
                f"version {event.version} of stream {event.stream!r} was at position "
                f"{event.position}, and is not any more",
            )
        if self._last_version(on, event) < event.version:
            raise another_log(
                self._name,
                f"the event at position {event.position} (version {event.version} of stream "
                f"{event.stream!r}) does not exist any more, and nothing says that it was deleted",
            )

    def _replaced(self, on: psycopg.Connection, event: Marked, now: Marked) -> bool:
        """Whether the library itself put another event in the place of this one."""
        if not self._layout.compacts or (now.stream, now.version) != (event.stream, event.version):
            return False
        row = self.at_version(on, event)
        return row is not None and is_snapshot(str(row[0]))

    def at_version(self, on: psycopg.Connection, event: Marked) -> tuple[Any, ...] | None:
        """The type of what has the version of a stream now; None where nothing has."""
        query = self._query(
            "version", of_stream=self._of_stream(event), at=sql.Literal(event.version)
        )
        return on.execute(query).fetchone()

    def _last_version(self, on: psycopg.Connection, event: Marked) -> int:
        found = [on.execute(self._query("last", of_stream=self._of_stream(event))).fetchone()]
        listed = self._layout.stream_table
        if listed is not None:
            same = sql.SQL("{} = {} AND {} = {}").format(
                listed.stream,
                sql.Literal(event.stream),
                listed.tenant,
                sql.Literal(event.tenant),
            )
            query = self._query("written", length=listed.length, table=listed.table, of_stream=same)
            found.append(on.execute(query).fetchone())
        # Below the first version of any store, where there is no such stream.
        return max((row[0] for row in found if row is not None and row[0] is not None), default=-1)

    def _of_stream(self, event: Marked) -> sql.Composable:
        return sql.SQL("{} AND {} = {}").format(
            self._layout.stream_equals(event.stream),
            self._layout.mapped.tenant,
            sql.Literal(event.tenant),
        )

    def from_row(self, row: tuple[Any, ...]) -> Marked:
        """A row of the statements that give events, as a mark names it."""
        parts = len(self._layout.order)
        position = str(Position(row[:parts]))
        event_id, stream, version, tenant, content = row[parts:]
        return Marked(position, str(event_id), stream, version, tenant or "", content)

    def _query(self, name: str, **more: sql.Composable) -> sql.Composed:
        return filled_in(name, self._names, **more)
