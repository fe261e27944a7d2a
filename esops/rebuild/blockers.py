"""Who is in the way: sessions that hold a lock on what a switch points elsewhere, or on what is
made or dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg

from esops.errors import Unavailable
from esops.postgres.statements import statements
from esops.rebuild.snapshots import end_sessions
from esops.wording import count

_SQL = statements(__package__, "blockers")
_SAY_EVERY = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that holds a lock, or a transaction that was prepared, which has no session."""

    pid: int | None
    application: str
    """How the session calls itself, or the prepared transaction's gid."""
    since: datetime | None
    """When its transaction began, or was prepared."""
    owner: str | None = None
    """The role that prepared it."""
    end: str | None = None
    """The statement that ends a prepared transaction."""

    def __str__(self) -> str:
        if self.end is not None:
            since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
            return f"the prepared transaction {self.application!r} (of {self.owner}{since})"
        since = f", since {self.since:%H:%M:%S} UTC" if self.since else ""
        return f"session {self.pid} ({self.application or 'no name'}{since})"


@dataclass(slots=True)
class Blocked:
    """Says who is in the way: at once, and later only who is new, not more than every ten
    seconds.
    """

    what: str
    say: Callable[[str], None]
    waits: str = ""
    """For what, in words, where it is not a switch that waits for readers."""
    said: set[int | str] = field(default_factory=set)
    again_at: float = 0.0

    def report(self, found: Sequence[Blocker]) -> None:
        """Say who is waited for, unless it was said."""
        new = {each.end or each.pid or 0 for each in found} - self.said
        first = not self.again_at
        if time.monotonic() < self.again_at or not (new or first):
            return
        self.said |= new
        self.again_at = time.monotonic() + _SAY_EVERY.total_seconds()
        waits = self.waits or f"waiting for readers of {self.what}"
        self.say(f"{waits}, trying again for a minute: {held_by(found)}." + how_to_end(found))

    def refusal(self, found: Sequence[Blocker], tries: int, again: str) -> Unavailable:
        """That a switch ends without its lock; `again` is the command to run later."""
        return Unavailable(
            f"the switch could not lock {self.what} in {count(tries, 'try', 'tries')}: "
            f"{held_by(found)}",
            hint=f"Nothing was changed. Once it has ended, {again}.{how_to_end(found)}",
        )


def blockers(
    connection: psycopg.Connection, names: Sequence[str], harmless: Sequence[str] = ()
) -> list[Blocker]:
    """Who holds a lock on these relations (quoted names), other than of `harmless` modes; the
    longest first.
    """
    parameters = {"names": list(names), "harmless": list(harmless)}
    rows = connection.execute(_SQL["blockers"], parameters).fetchall()
    return [Blocker(*row) for row in rows]


def held_by(found: Sequence[Blocker]) -> str:
    """In words: "it is locked by session 4711 (shop, since 12:00:00 UTC)"."""
    if not found:
        return "it was locked by a session that has just ended"
    return f"it is locked by {', '.join(map(str, found))}"


def sessions(found: Sequence[Blocker]) -> list[int]:
    """The server processes of those that are sessions."""
    return [each.pid for each in found if each.pid is not None]


def how_to_end(found: Sequence[Blocker]) -> str:
    """How to end them, as sentences after another one."""
    pids = sessions(found)
    ends = [each.end for each in found if each.end is not None]
    said = f" To end it: {end_sessions(pids)}" if pids else ""
    if ends:
        said += " A prepared transaction lasts until somebody ends it. If nothing will commit it "
        said += f"any more: {'; '.join(ends)}"
    return said


def of_prepared(found: Sequence[Blocker]) -> list[str]:
    """For a plan: the prepared transactions for which the switch would wait in vain."""
    return [
        f"{each} holds a lock on what the switch changes, and lasts until somebody ends it. If "
        f"nothing will commit it any more, run: {each.end}"
        for each in found
        if each.end is not None
    ]
