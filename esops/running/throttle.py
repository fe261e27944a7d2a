"""What an operator asks of work under way, from another terminal: pause, go on, slow down, switch
now or later; and what the load allows.

The wishes stand in `esops.controls`, in the read model's database, and are looked at twice a
second. Work waits between two batches,
after a checkpoint and with no statement open, so that a rebuild that waits for a day holds nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import structlog
from psycopg.types.json import Jsonb

from esops.errors import ConnectionLost, Refused, Stopped
from esops.postgres import catalog
from esops.postgres.connection import connect, process_name, translated
from esops.readmodel import migrations

log = structlog.get_logger("esops.control")
LOOK_EVERY = timedelta(milliseconds=500)
_STEP = timedelta(milliseconds=100)
_SLICE = timedelta(milliseconds=250)
"""Under a limited rate, so much work is done between two pauses."""
_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """What work may take.

    `max_rate`: events a second. `max_load`: active sessions of the server beside ours.
    `max_lag_bytes`: how far its furthest replica may
    be behind. `nice`: it rests so many times as long as it works.
    """

    max_rate: float | None = None
    max_load: int | None = None
    max_lag_bytes: int | None = None
    nice: float | None = None

    def over(self, other: Mapping[str, Any]) -> Limits:
        """With those of another that are set."""
        return replace(self, **{key: value for key, value in other.items() if value is not None})


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """What stands in `esops.controls` for a projection."""

    paused: bool = False
    postponed: bool = False
    switch_now: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)
    by: str | None = None
    at: datetime | None = None


def requested(connection: psycopg.Connection, projection: str) -> ControlRequest:
    """A projection's; those of nobody where there are none."""
    if not catalog.exists(connection, "esops.controls"):
        return ControlRequest()
    row = connection.execute(
        "SELECT paused, postponed, switch_now, limits, by, updated_at FROM esops.controls WHERE "
        "projection = %s",
        (projection,),
    ).fetchone()
    return ControlRequest() if row is None else ControlRequest(*row)


def request(connection: psycopg.Connection, projection: str, **changed: Any) -> ControlRequest:
    """Change some of a projection's wishes: paused, postponed, switch_now, or `limits`, in which a
    limit of None is lifted.
    """
    migrations.install(connection)
    with connection.transaction():
        connection.execute(
            "INSERT INTO esops.controls (projection) VALUES (%s) ON CONFLICT DO NOTHING",
            (projection,),
        )
        connection.execute(
            "SELECT FROM esops.controls WHERE projection = %s FOR UPDATE", (projection,)
        )
        now = requested(connection, projection)
        limits = {
            key: value
            for key, value in {**now.limits, **changed.pop("limits", {})}.items()
            if value is not None
        }
        now = replace(now, limits=limits, **changed)
        connection.execute(
            "UPDATE esops.controls SET paused = %s, postponed = %s, switch_now = %s, limits = %s, "
            "by = %s, updated_at = now() "
            "WHERE projection = %s",
            (now.paused, now.postponed, now.switch_now, Jsonb(limits), _ourselves(), projection),
        )
    return requested(connection, projection)


def _ourselves() -> str:
    return process_name(socket.gethostname(), os.getpid())


class Throttle:
    """Where work stops between batches, for as long as somebody wants it to or the load is too
    high.
    """

    def __init__(
        self,
        dsn: str,
        projection: str,
        limits: Limits = Limits(),
        *,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda _: None,
        share: float = 1.0,
    ) -> None:
        """Take the read model's database; nothing is opened yet.

        `share`: the part of the rate that is ours, where several work.
        """
        self._dsn, self._projection, self._own, self._share = dsn, projection, limits, share
        self._stop, self._say = stop, say
        self._connection: psycopg.Connection | None = None
        self._looked = 0.0
        self._wishes = ControlRequest()
        self._reason: str | None = None
        self._sees = False
        self._worked_since = time.monotonic()
        self._allowance = time.monotonic()

    @property
    def limits(self) -> Limits:
        """Those that hold now: what was wished last, over what the work began with."""
        limits = self._own.over(dict(self._wishes.limits))
        return (
            limits
            if limits.max_rate is None
            else replace(limits, max_rate=limits.max_rate * self._share)
        )

    @property
    def slice(self) -> int:
        """How many events may be worked on before the next look."""
        rate = self.limits.max_rate
        return _AT_ONCE if rate is None else max(1, int(rate * _SLICE.total_seconds()))

    @property
    def rests(self) -> bool:
        """Whether work is to rest between two slices, by a rate or by niceness."""
        return bool(self.limits.max_rate or self.limits.nice)

    def look(self, *, now: bool = False) -> ControlRequest:
        """The wishes, as they are or were half a second ago; those known last, while the database
        is away.
        """
        if now or time.monotonic() - self._looked >= LOOK_EVERY.total_seconds():
            self._looked = time.monotonic()
            try:
                with translated():
                    self._wishes = requested(self._open(), self._projection)
                    self._reason = self._held()
            except ConnectionLost:
                self._connection = None
        return self._wishes

    def holds(self) -> bool:
        """Whether work is to wait now."""
        self.look()
        return self._reason is not None

    def wait(self) -> None:
        """Until nothing holds the work. Raises Stopped when asked to stop."""
        told = ""
        while self.holds():
            if self._stop():
                raise Stopped(f"stopped while waiting: {self._reason}")
            reason = (self._reason or "").partition(" (")[0]
            if reason != told:
                self._say(f"waiting: {self._reason}")
                log.info("waiting", projection=self._projection, reason=self._reason)
                told = reason
            time.sleep(_STEP.total_seconds())
        if told:
            self._say("going on")
            log.info("going on", projection=self._projection)
        self._worked_since = self._allowance = time.monotonic()

    def spend(self, events: int) -> None:
        """Rest as long as the rate and the niceness want after so many events; less where that
        changes meanwhile or the work is to stop.
        """
        began = time.monotonic()
        worked = began - self._worked_since
        while not self._stop():
            limits = self.limits
            rest = worked * (limits.nice or 0.0) - (time.monotonic() - began)
            if limits.max_rate:
                # What was not used in time is forgotten, so that no burst follows a pause.
                rest = max(
                    rest,
                    max(self._allowance, began - 1) + events / limits.max_rate - time.monotonic(),
                )
            if rest <= 0:
                break
            time.sleep(min(rest, _STEP.total_seconds()))
            self.look()
        if self.limits.max_rate:
            self._allowance = max(self._allowance, began - 1) + events / self.limits.max_rate
        self._worked_since = time.monotonic()

    def _held(self) -> str | None:
        wished, limits = self._wishes, self.limits
        if wished.paused:
            since = f", since {wished.at:%H:%M:%S}" if wished.at else ""
            return (
                f"paused by {wished.by}{since}; go on with: esops projection resume "
                f"{self._projection}"
            )
        if limits.max_load is not None or limits.max_lag_bytes is not None:
            self._may_see()
        if limits.max_load is not None:
            active = self._number(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = "
                "'client backend' "
                "AND NOT starts_with(application_name, %s)",
                f"{_ourselves()} ",
            )
            if active > limits.max_load:
                return (
                    f"the server is busier than max-load allows ({active} active sessions, at "
                    f"most {limits.max_load})"
                )
        if limits.max_lag_bytes is not None:
            lag = self._number(
                "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) FROM "
                "pg_stat_replication"
            )
            if lag > limits.max_lag_bytes:
                return (
                    f"a replica is further behind than max-lag-bytes allows ({lag:,} bytes, at "
                    f"most {limits.max_lag_bytes:,})"
                )
        return None

    def _may_see(self) -> None:
        """Raises Refused where the server would not tell: then nothing would ever hold the work."""
        if self._sees:
            return
        row = (
            self._open()
            .execute("SELECT current_user, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")
            .fetchone()
        )
        if row is None or not row[1]:
            raise Refused(
                f"the role {row[0] if row else '?'} may not see other sessions, so that max-load "
                "and max-lag-bytes would not work",
                hint=f"GRANT pg_read_all_stats TO {row[0] if row else 'the role'}; or leave these "
                "limits out.",
            )
        self._sees = True

    def _number(self, statement: str, *values: str) -> int:
        row = self._open().execute(statement.encode(), values or None).fetchone()
        return int(row[0] or 0) if row else 0

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._dsn, f"control {self._projection}")
        return self._connection

    def close(self) -> None:
        """Close its connection."""
        if self._connection is not None:
            self._connection.close()
