"""Numbers that somebody holds in advance, and when nobody can hold them any more.

With CACHE above 1 a session takes several numbers from its sequence at once. It may use the last of
them hours later, in a transaction that has never drawn a number. So a missing number is not dead
before every session is gone that was there when the number was drawn.

With INCREMENT above 1 the application itself may hand out the numbers in between, as Hibernate's
pooled optimiser does. They are in its memory, whatever becomes of its sessions, and nobody can know
when it has forgotten them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import sql

from esops.errors import UnknowableNumbers
from esops.postgres.activity import without_values
from esops.postgres.session import OURS
from esops.postgres.statements import statements
from esops.stores.base import Holder
from esops.stores.postgres.numbered_events import NumberedEvents
from esops.stores.postgres.sequence import SequenceState

_SQL = statements(__package__, "missing")
_EVERY = 0.25
"""Seconds between two looks at the sessions."""
_MARGIN = 1.0
"""Seconds by which a number must have been drawn before the oldest session began."""
_SHOWN = 5
_FOR_EVER = timedelta(days=36_500)
"""An age that no number has."""


@dataclass(frozen=True, slots=True)
class _Session:
    pid: int
    user: str | None
    application: str | None
    state: str
    began: float | None
    """Seconds since 1970; None where this role may not see it."""
    idle_since: float | None
    query: str | None

    def may_hold(self, low: float | None) -> bool:
        """Whether it may hold a number that was drawn after `low`: not if it has done nothing
        since.
        """
        return (
            low is None or self.state != "idle" or self.idle_since is None or self.idle_since >= low
        )


class HeldInAdvance:
    """Who may hold missing numbers, and how long ago a number must have been drawn so that nobody
    does.
    """

    def __init__(self, events: NumberedEvents) -> None:
        """Nothing is looked at yet."""
        self._events = events
        self._looked = 0.0
        self._now = 0.0
        """The server's clock as if it had never gone back while it was looked at."""
        self._ahead = -math.inf
        """By how much the server's clock was ahead of this process's, at most."""
        self._sessions: list[_Session] = []
        self._unsure: set[tuple[int, float | None]] = set()
        """Sessions, by pid and beginning, of which the clock does not tell how old they are."""
        self.oldest = 0.0
        """Since when the oldest session is there that may hold the first missing number, in seconds
        since 1970; 0 where that says nothing.
        """

    def age(
        self, connection: psycopg.Connection, state: SequenceState, low: float | None
    ) -> timedelta | None:
        """How long ago a number must have been drawn that nobody can hold any more; None where no
        time is enough.

        `low` is a time of the server's clock before which the first missing number had not been
        drawn.
        """
        ages = [] if self._events.dead_after is None else [self._events.dead_after]
        self.oldest = 0.0
        # Whatever the application hands out itself does not end with a session.
        if state.increment == 1 or self._events.promised:
            self._look(connection)
            began = [each.began for each in self._sessions if each.may_hold(low)]
            known = [each for each in began if each is not None]
            if any(self._is_unsure(each) for each in self._sessions):
                ages.append(_FOR_EVER)
            elif len(known) == len(began):
                self.oldest = min(known, default=self._now)
                ages.append(timedelta(seconds=max(0.0, self._now - self.oldest + _MARGIN)))
        return max(self._events.threshold, min(ages)) if ages else None

    def _look(self, connection: psycopg.Connection) -> None:
        if time.monotonic() - self._looked < _EVERY:
            return
        self._looked = time.monotonic()
        rows = connection.execute(sql.SQL(_SQL["sessions"]).format(ours=OURS)).fetchall()
        self._sessions = [_Session(*row[1:]) for row in rows]
        if not rows:
            self._now = 0.0  # Numbers of a moment ago are nobody's.
            return
        clock = time.monotonic()
        self._ahead = max(self._ahead, rows[0][0] - clock)
        self._now = clock + self._ahead
        times = [moment for each in self._sessions for moment in (each.began, each.idle_since)]
        if max((moment for moment in times if moment is not None), default=0.0) > (
            self._now + _MARGIN
        ):
            # The clock went back before this process looked: whoever is there may be older than it
            # seems, and stays in doubt when the clock has caught up.
            self._unsure |= {(each.pid, each.began) for each in self._sessions}

    def _is_unsure(self, session: _Session) -> bool:
        return (session.pid, session.began) in self._unsure

    def holders(self, low: float | None, high: float | None, cache: int) -> list[Holder]:
        """The sessions that may hold a number drawn between two times of the server's clock."""
        found = [
            each
            for each in self._sessions
            if self._is_unsure(each)
            or (each.may_hold(low) and (each.began is None or high is None or each.began <= high))
        ]
        found.sort(key=lambda each: each.began or 0.0)
        return [
            Holder(
                f"session {each.pid} of {each.user or '?'} ({each.application or 'no name'})",
                f"it may hold the number in advance (CACHE {cache}); "
                + ("the server's clock went back; " if self._is_unsure(each) else "")
                + f"{each.state}: {without_values(each.query or '?')}",
                None if each.began is None else datetime.fromtimestamp(each.began, UTC),
                "End that session, as by a restart of its application's pool, when its application "
                f"can do without. For the future: ALTER SEQUENCE {self._events.source().name} "
                "CACHE 1;",
            )
            for each in found[:_SHOWN]
        ]

    def unknowable(self, name: str, state: SequenceState, first: int) -> UnknowableNumbers:
        """The error where nobody can know whether a missing number will still come."""
        if state.increment > 1:
            return UnknowableNumbers(
                f"nobody can know whether number {first} will still come: the sequence {name} "
                f"gives every {state.increment}th number, and the application may hand out those "
                "in between from its memory, long after it drew them",
                hint="Set `dead_after` of the store to the time after which the application has "
                'certainly used or lost its numbers, or `append = "quick"` if it only uses numbers '
                "that the sequence itself gives, each in the transaction that drew it.",
            )
        role = "pg_read_all_stats"
        return UnknowableNumbers(
            f"nobody can know whether number {first} will still come: the sequence {name} gives "
            f"each session {state.cache} numbers in advance, and this role may not see since when "
            "the other sessions are there",
            hint=f"GRANT {role} TO this role, or ALTER SEQUENCE {name} CACHE 1, or set "
            "`dead_after` of the store to a time after which numbers count as dead.",
        )
