"""Where work waits between two batches: for as long as an operator has paused it, while the load is
too high, or to keep to a rate.

Work waits after a checkpoint and with no statement open, so that a rebuild that waits for a day
holds nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, timedelta
from typing import Any

import psycopg
import structlog

from esops.errors import ConnectionLost, Refused, Stopped
from esops.postgres.connection import connect, translated
from esops.running.control import ControlRequest, ourselves, requested

log = structlog.get_logger("esops.throttle")
LOOK_EVERY = timedelta(milliseconds=500)
_STEP = timedelta(milliseconds=100)
_SLICE = timedelta(milliseconds=250)
"""Under a limited rate, work is done in slices that would take this long at that rate."""
_AT_ONCE = 65_536
"""Events in a slice where no rate is kept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much work may burden the read model's server; None is no limit.

    `max_rate`: events a second. `max_load`: active sessions of the server besides ours.
    `max_lag_bytes`: how far its slowest replica may be behind. `nice`: work rests this many
    times as long as it works.
    """

    max_rate: float | None = None
    max_load: int | None = None
    max_lag_bytes: int | None = None
    nice: float | None = None

    def over(self, other: Mapping[str, Any]) -> Limits:
        """These limits, overridden by those of `other` that are set."""
        return replace(self, **{key: value for key, value in other.items() if value is not None})

    def __str__(self) -> str:
        """The options that set them; empty where there are none."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return ", ".join(
            f"--{key.replace('_', '-')} {int(value) if value == int(value) else value}"
            for key, value in given.items()
        )


class Throttle:
    """Lets work wait between batches, for as long as an operator wants or the load is too high."""

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
        """Nothing is opened before it is needed.

        `share`: the part of the rate that is ours, where several processes work (0.25 of four).
        """
        self._dsn, self._projection, self._own, self._share = dsn, projection, limits, share
        self._stop, self._say = stop, say
        self._connection: psycopg.Connection | None = None
        self._looked = 0.0
        self._request = ControlRequest()
        self._reason: str | None = None
        self._sees = False
        self._worked_since = time.monotonic()
        self._allowance = time.monotonic()
        self._waited = 0.0
        self._held_since: float | None = None

    @property
    def limits(self) -> Limits:
        """The limits that apply now: those asked for last override those it started with."""
        limits = self._own.over(dict(self._request.limits))
        # Several processes share one rate; the other limits are about the server as a whole.
        return (
            limits
            if limits.max_rate is None
            else replace(limits, max_rate=limits.max_rate * self._share)
        )

    @property
    def slice(self) -> int:
        """How many events to apply before looking again."""
        rate = self.limits.max_rate
        return _AT_ONCE if rate is None else max(1, int(rate * _SLICE.total_seconds()))

    @property
    def rests(self) -> bool:
        """Whether work is to rest between two slices, because of a rate or of `nice`."""
        return bool(self.limits.max_rate or self.limits.nice)

    def look(self, *, now: bool = False) -> ControlRequest:
        """What operators ask for, as of at most half a second ago; while the database is
        unreachable, what was known last.
        """
        if now or time.monotonic() - self._looked >= LOOK_EVERY.total_seconds():
            self._looked = time.monotonic()
            try:
                with translated():
                    self._request = requested(self._open(), self._projection)
                    self._reason = self._held()
            # The work itself notices, and waits for the database.
            except ConnectionLost:
                self._connection = None
        return self._request

    def holds(self) -> bool:
        """Whether work has to wait now."""
        return self.reason() is not None

    def reason(self) -> str | None:
        """Why work has to wait now; None where it need not."""
        self.look()
        return self._reason

    def others_wait(self) -> str | None:
        """As `reason`, of work that other processes do: the time counts as waited for here."""
        reason, now = self.reason(), time.monotonic()
        if self._held_since is not None:
            self._waited += now - self._held_since
        self._held_since = None if reason is None else now
        return reason

    def take_waited(self) -> float:
        """For how many seconds work has waited since this was called last."""
        waited, self._waited = self._waited, 0.0
        return waited

    def wait(self) -> None:
        """Wait until nothing stops the work any more. Raises Stopped when asked to stop."""
        began, said = time.monotonic(), ""
        while self.holds():
            if self._stop():
                self._waited += time.monotonic() - began
                raise Stopped(f"stopped while waiting: {self._reason}")
            # Without the figures in brackets, which change at every look.
            reason = (self._reason or "").partition(" (")[0]
            if reason != said:
                self._say(f"waiting: {self._reason}")
                log.info("waiting", projection=self._projection, reason=self._reason)
                said = reason
            time.sleep(_STEP.total_seconds())
        if said:
            self._say("resumed")
            log.info("resumed", projection=self._projection)
            self._waited += time.monotonic() - began
        self._worked_since = self._allowance = time.monotonic()

    def spend(self, events: int) -> None:
        """Rest after this number of events for as long as the rate and `nice` demand.

        The rest is shorter if the limits change in the meantime or the work is to stop.
        """
        began = time.monotonic()
        worked = began - self._worked_since
        while not self._stop():
            rest = self._rest(events, worked, began)
            if rest <= 0:
                break
            # In short steps: a limit that is lifted, or a stop, takes effect at once.
            time.sleep(min(rest, _STEP.total_seconds()))
            self.look()
        self._note_spent(events, began)

    def _rest(self, events: int, worked: float, began: float) -> float:
        """For how long work has to rest yet, after these events and seconds of work."""
        limits, now = self.limits, time.monotonic()
        rest = worked * (limits.nice or 0.0) - (now - began)
        if limits.max_rate:
            # Unused allowance older than a second is forgotten: no burst follows a pause.
            rest = max(rest, max(self._allowance, began - 1) + events / limits.max_rate - now)
        return rest

    def _note_spent(self, events: int, began: float) -> None:
        if self.limits.max_rate:
            self._allowance = max(self._allowance, began - 1) + events / self.limits.max_rate
        self._worked_since = time.monotonic()

    def _held(self) -> str | None:
        """Why work has to wait now; None where it may go ahead."""
        request, limits = self._request, self.limits
        if request.paused:
            since = f" since {request.at.astimezone(UTC):%H:%M:%S} UTC" if request.at else ""
            return (
                f"paused by {request.by}{since}. Resume with: esops projection resume "
                f"{self._projection}"
            )
        if limits.max_load is not None or limits.max_lag_bytes is not None:
            self._may_see()
        if limits.max_load is not None:
            active = self._number(
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND backend_type = "
                "'client backend' "
                "AND NOT starts_with(application_name, %s)",
                f"{ourselves()} ",
            )
            if active > limits.max_load:
                return (
                    f"the server is busier than --max-load allows ({active} active sessions, "
                    f"limit {limits.max_load})"
                )
        if limits.max_lag_bytes is not None:
            lag = self._number(
                "SELECT max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) FROM "
                "pg_stat_replication"
            )
            if lag > limits.max_lag_bytes:
                return (
                    f"a replica is further behind than --max-lag-bytes allows ({lag:,} bytes, "
                    f"limit {limits.max_lag_bytes:,})"
                )
        return None

    def _may_see(self) -> None:
        """Raises Refused where the role may not see other sessions: the limits would be ignored
        silently.
        """
        if self._sees:
            return
        row = (
            self._open()
            .execute("SELECT current_user, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")
            .fetchone()
        )
        if row is None or not row[1]:
            raise Refused(
                f"the role {row[0] if row else '?'} may not see other sessions, so --max-load "
                "and --max-lag-bytes cannot work",
                hint=f"GRANT pg_read_all_stats TO {row[0] if row else 'the role'}; or leave out "
                "these limits.",
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
