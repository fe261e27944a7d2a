"""Snapshots that are older than green's newest rows.

A transaction with one snapshot for all of its statements (REPEATABLE READ, SERIALIZABLE, or one
long statement) sees the rows that were committed when it began. Green's rows are younger than
blue's: after a switch, such a transaction would read green without its newest rows, and one that
began before the load an empty table. So a switch waits until whoever had a snapshot at its moment
has ended: how far green was in somebody's snapshot cannot be seen from outside.

Snapshots are known by the virtual transactions that hold them, not by their number: one open
transaction that writes keeps the number of every later snapshot back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import sql

from esops.errors import Refused, Stopped
from esops.postgres.session import OURS
from esops.postgres.statements import statements
from esops.wording import count

_SQL = statements(__package__, "snapshots")
_UNDER_LOCK = timedelta(seconds=2)
_LOOK_EVERY_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class SnapshotPatience:
    """How long a switch waits for snapshots, and whether it waits at all."""

    limit: timedelta = timedelta(seconds=60)
    despite: bool = False
    again: str = "run the command again"
    """How the command that switches is taken up after a refusal."""


DEFAULT_PATIENCE = SnapshotPatience()


@dataclass(frozen=True, slots=True)
class SnapshotHolder:
    """A session that has a snapshot."""

    pid: int
    transaction: str
    user: str
    application: str
    since: datetime | None
    """None where this role may not see it."""

    def __str__(self) -> str:
        since = f", since {self.since:%H:%M:%S} UTC" if self.since else ""
        return f"session {self.pid} ({self.user}, {self.application or 'no name'}{since})"


class OlderSnapshots(Exception):
    """Somebody reads with a snapshot in which green is not yet where it has to be."""


def holders(connection: psycopg.Connection) -> list[SnapshotHolder]:
    """Who holds a snapshot in this database now, without esops' own sessions."""
    connection.execute(_SQL["refresh"])
    rows = connection.execute(sql.SQL(_SQL["sessions"]).format(ours=OURS)).fetchall()
    return [SnapshotHolder(*row) for row in rows]


def end_sessions(pids: Sequence[int]) -> str:
    """The statements that end sessions, to be copied."""
    return " ".join(f"SELECT pg_terminate_backend({pid});" for pid in pids)


def replicas(connection: psycopg.Connection) -> list[str]:
    """The names of the replicas that are connected and may answer queries."""
    return [row[0] for row in connection.execute(_SQL["replicas"]).fetchall()]


class SnapshotWait:
    """Waits for older snapshots, all in all for no longer than the limit."""

    def __init__(
        self,
        connection: psycopg.Connection,
        patience: SnapshotPatience,
        stop: Callable[[], bool],
        say: Callable[[str], None],
        locking: Callable[[], Collection[int]] = tuple,
    ) -> None:
        """`connection` is that of the switch. `locking` gives the processes that hold a lock on
        what is switched.
        """
        self._connection, self._patience, self._stop, self._say = connection, patience, stop, say
        self._locking = locking
        self._deadline = time.monotonic() + patience.limit.total_seconds()
        self._said = False

    def check_under_lock(self) -> None:
        """Wait a moment for those who have a snapshot now, in the transaction that holds blue's
        checkpoint: only the process that follows blue waits for it. Raises OlderSnapshots.
        """
        if self._patience.despite:
            return
        deadline = time.monotonic() + _UNDER_LOCK.total_seconds()
        waited_for = _keys(holders(self._connection))
        while waited_for:
            if time.monotonic() >= deadline:
                raise OlderSnapshots
            time.sleep(_LOOK_EVERY_SECONDS)
            waited_for &= _keys(holders(self._connection))

    def wait(self) -> None:
        """Wait, in no transaction, until all have ended who have a snapshot now.

        Raises Refused that names those who have not when the time is over, and Stopped.
        """
        if self._patience.despite:
            return
        row = self._connection.execute(_SQL["now"]).fetchone()
        assert row is not None
        waited_for = _keys(holders(self._connection))
        while True:
            left = [each for each in holders(self._connection) if _key(each) in waited_for]
            waited_for = _keys(left)
            rows = self._connection.execute(_SQL["standbys"], {"at": row[0]}).fetchall()
            who = [*map(str, left), *(f"a reader on the replica {each}" for (each,) in rows)]
            if not who:
                return
            if self._stop():
                raise Stopped("stopped while waiting for older snapshots")
            if time.monotonic() >= self._deadline:
                raise self._refused(who, left, standbys=bool(rows))
            if not self._said:
                self._said = True
                self._say(
                    f"waiting for {count(len(who), 'reader')} whose snapshot is older than the "
                    f"switch: {', '.join(who[:3])}"
                )
            time.sleep(_LOOK_EVERY_SECONDS * 5)

    def _refused(
        self, who: list[str], left: Sequence[SnapshotHolder], *, standbys: bool
    ) -> Refused:
        hint = f"Nothing was changed. Wait until they have ended, and {self._patience.again}."
        if left:
            hint += f" To end them: {end_sessions([each.pid for each in left[:5]])}"
        locking = set(self._locking())
        if held := [f"session {each.pid}" for each in left if each.pid in locking]:
            hint += (
                f" --despite-snapshots would not help: {' and '.join(held[:5])} also "
                f"{'holds' if len(held) == 1 else 'hold'} a lock on the read model."
            )
        else:
            hint += " If none of them reads the read model: --despite-snapshots."
        if standbys and (kept := self._connection.execute(_SQL["prepared"]).fetchall()):
            gids = ", ".join(f"{gid!r} since {at:%Y-%m-%d %H:%M} UTC" for gid, at in kept[:3])
            hint += f" Prepared transactions keep the snapshots of replicas back: {gids}."
        return Refused(
            f"{count(len(who), 'reader')} had a snapshot before the switch, and could see the read "
            f"model without its newest rows after it: {', '.join(who[:5])}",
            hint=hint,
        )


def _key(holder: SnapshotHolder) -> tuple[int, str]:
    return holder.pid, holder.transaction


def _keys(found: list[SnapshotHolder]) -> set[tuple[int, str]]:
    return {_key(each) for each in found}
