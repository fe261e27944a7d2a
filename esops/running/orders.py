"""What the versions of a read model are told from outside, asked by one statement for all of them:
the state that each is in, and what operators ask for of its projection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import psycopg
import structlog

from esops.errors import ConnectionLost
from esops.postgres.connection import translated
from esops.postgres.statements import statements
from esops.running.control import ControlRequest
from esops.running.throttle import LOOK_EVERY, Throttle

log = structlog.get_logger("esops.run")
_SQL = statements(__package__, "orders")
_AT_BEGINNING = 0.1
"""How old the answer may be, in seconds, when a version begins to apply events."""
IDLE_EVERY = 2.0
"""Seconds between two looks while nothing is applied."""


class Orders:
    """What was asked last, for all threads of a process; each of them may ask again."""

    def __init__(self) -> None:
        """Nothing was asked yet."""
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._states: Mapping[tuple[str, int], str] = {}
        self._requests: Mapping[str, ControlRequest] = {}

    def refresh(self, connection: psycopg.Connection, every: float) -> None:
        """Ask again, unless that was done within `every` seconds. Raises ConnectionLost."""
        if time.monotonic() - self._looked < every or not self._lock.acquire(blocking=False):
            return
        try:
            with translated():
                rows = connection.execute(_SQL["all"]).fetchall()
            self._looked = time.monotonic()
        finally:
            self._lock.release()
        self._states = {(row[0], row[1]): row[2] for row in rows}
        self._requests = {row[0]: ControlRequest(*row[3:]) for row in rows if row[3] is not None}

    def state(self, projection: str, version: int) -> str | None:
        """A version's state; None where there is no such version, or it is not known yet."""
        return self._states.get((projection, version))

    def request(self, projection: str) -> ControlRequest:
        """What operators ask for of a projection."""
        return self._requests.get(projection, ControlRequest())


class Resting(Exception):
    """Work that has to wait, so that others take their turn: until when (monotonic seconds)."""

    def __init__(self, until: float) -> None:
        """`until` is when to look again."""
        super().__init__()
        self.until = until


class SharedThrottle(Throttle):
    """As a throttle, but instead of waiting it raises Resting, and it asks over the session in
    which the version is advanced.
    """

    _AT_ONCE = 2_000

    def __init__(
        self, projection: str, orders: Orders, session: Callable[[], psycopg.Connection]
    ) -> None:
        """`session` gives the connection; no statement is open in it when work looks here."""
        super().__init__("", projection)
        self._orders, self._session = orders, session
        self._until = 0.0
        self._said = ""

    @property
    def slice(self) -> int:
        """Few enough that others get their turn soon."""
        return min(super().slice, self._AT_ONCE)

    def look(self, *, now: bool = False) -> ControlRequest:
        """As of at most half a second ago."""
        self._refresh(0.0 if now else LOOK_EVERY.total_seconds())
        try:
            self._request = self._orders.request(self._projection)
            limits = self.limits
            measured = limits.max_load is not None or limits.max_lag_bytes is not None
            if not measured or now or time.monotonic() - self._looked >= LOOK_EVERY.total_seconds():
                self._looked = time.monotonic()
                with translated():
                    self._reason = self._held()
        except ConnectionLost:
            pass  # the work itself notices
        return self._request

    def _refresh(self, every: float) -> None:
        with suppress(ConnectionLost):  # the work itself notices
            self._orders.refresh(self._session(), every)

    def wait(self) -> None:
        """Raises Resting where work has to wait, and Stopped never: nothing waits here."""
        now = time.monotonic()
        if now < self._until:
            raise Resting(self._until)
        # Whoever pauses it while nothing comes means what comes next.
        self._refresh(_AT_BEGINNING)
        if self.holds():
            reason = (self._reason or "").partition(" (")[0]
            if reason != self._said:
                log.info("waiting", projection=self._projection, reason=self._reason)
                self._said = reason
            raise Resting(now + LOOK_EVERY.total_seconds())
        if self._said:
            log.info("resumed", projection=self._projection)
            self._said, self._allowance = "", now
        self._worked_since = now

    def spend(self, events: int) -> None:
        """Raises Resting where the rate or `nice` demand a rest."""
        began = time.monotonic()
        rest = self._rest(events, began - self._worked_since, began)
        self._note_spent(events, began)
        if rest > 0:
            self._until = began + rest
            raise Resting(self._until)

    def _open(self) -> psycopg.Connection:
        return self._session()

    def close(self) -> None:
        """The session is closed by whoever opened it."""
