"""The switch of a table that the application writes in the transaction of each append.

One transaction locks blue before all else, so that appends wait in their own write to it. Under the
lock green gets the events that are visible and not settled yet; then the names are exchanged, and
the appends continue into the table that has the name by then. A lesser lock that is followed by the
renames would deadlock with them, and so would a lock on the tables of the events.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import timedelta

import psycopg
import structlog
from psycopg import sql

from esops.errors import Unavailable
from esops.postgres.connection import qualified, translated
from esops.postgres.held import STILL, WHOLE, end_if_still
from esops.postgres.statements import statements
from esops.readmodel import registry
from esops.readmodel.dependants import drop_replaced
from esops.readmodel.locks import deadlock_timeout
from esops.rebuild import carried, inline_limits, standing, switch, unchanged
from esops.rebuild.blockers import Blocked, Blocker, blockers, sessions
from esops.rebuild.ignored import IgnoredValues
from esops.rebuild.snapshots import SnapshotPatience, SnapshotWait
from esops.rebuild.switch import Switch
from esops.running.visible import TooMany, VisibleEvents
from esops.wording import count

_SQL = statements(__package__, "inline_switch")
log = structlog.get_logger("esops.switch")
PATIENCE = timedelta(seconds=60)
_SHORTEST, _LONGEST = timedelta(milliseconds=100), timedelta(milliseconds=300)
"""Between these a try waits for its lock, and everybody else behind it."""
_LONG = timedelta(seconds=1)
"""From here on a transaction that has a lock on the table is waited for without a try."""
_UNDER_LOCK = timedelta(seconds=1)
"""How long the events that are not settled may take: writers and readers wait for that."""


@dataclass(frozen=True, slots=True)
class Lock:
    """What a switch made the application wait for."""

    held_seconds: float
    """From the moment it had the lock to the commit."""
    tries: int
    events: int
    """How many were applied under the lock."""

    def as_dict(self) -> Mapping[str, float]:
        """Under the documented field names."""
        return {**asdict(self), "held_seconds": round(self.held_seconds, 4)}


@dataclass(frozen=True, slots=True)
class Steps:
    """What happens in the switch, beside the exchange of names.

    `keep_up` lets green follow, before each try. `record` writes into the same transaction, and
    returns the number of the rebuild in whose log the switch is.
    """

    visible: VisibleEvents
    keep_up: Callable[[], None]
    record: Callable[[psycopg.Connection], int]
    stop: Callable[[], bool]
    say: Callable[[str], None]
    ignored: IgnoredValues


def perform(
    connection: psycopg.Connection, what: Switch, steps: Steps, patience: SnapshotPatience
) -> Lock:
    """Bring the target to all that is visible and exchange its name with the source's.

    Raises Unavailable when the lock cannot be had within a minute, or would be held for too long,
    and Refused where somebody keeps a snapshot for longer than `patience`, or where the code fails.
    """
    older = SnapshotWait(
        connection,
        patience,
        steps.stop,
        steps.say,
        lambda: sessions(_blockers(connection, what)),
    )
    blocked = Blocked(str(what), steps.say)
    tries = 0
    with translated():
        unchanged.check(connection, what.source, what.target, by_rename=True)
        inline_limits.check(connection, what)
        old_rows = switch.left_stale(connection, what)
        steps.ignored.bring(connection)  # of all rows, which may take its time
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while True:
        with translated():
            older.wait()
            # After all that may take long: whatever came by then is applied before the lock.
            _wait_for_little(connection, steps, deadline, patience.again)
            found = _long(connection, what)
        if found and not steps.stop() and time.monotonic() < deadline:
            # A try would only make writers wait behind it.
            blocked.report(found)
            time.sleep(0.2)
            continue
        with translated():
            _bring_ignored(connection, steps, deadline, patience.again)
        steps.keep_up()
        tries += 1
        try:
            with translated():
                held, events = _attempt(connection, what, steps)
        except TooMany as many:
            if steps.stop() or time.monotonic() >= deadline:
                raise _too_much(many.args[0], _UNDER_LOCK.total_seconds(), patience.again) from None
            steps.say(f"{count(many.args[0], 'event')} came at the last moment; tries again")
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            with translated():
                found = _blockers(connection, what)
            if steps.stop() or time.monotonic() >= deadline:
                raise blocked.refusal(found, tries, patience.again) from None
            blocked.report(found)
            # Random pauses that grow: whoever waited behind this try gets its turn.
            time.sleep(random.uniform(0.3, min(0.3 + 0.2 * tries, 2.0)))  # noqa: S311 - spreads tries, guards nothing
        else:
            lock = Lock(held, tries, events)
            log.info("switched", projection=what.target.projection, **lock.as_dict())
            drop_replaced(connection, wait=True)
            for each in old_rows:
                steps.say(each)
            return lock


def _attempt(connection: psycopg.Connection, what: Switch, steps: Steps) -> tuple[float, int]:
    """The time for which the lock was held, and the events that were applied under it."""
    assert what.source is not None
    with connection.transaction():
        limit_lock(connection)
        # All that needs no lock comes before it: writers wait from there on. These rows are of
        # esops' own tables, which the application does not know.
        source = registry.hold(connection, what.source, ("active",))
        target = registry.hold(connection, what.target, ("building", "standby"))
        what = replace(what, source=source, target=target)
        drop_replaced(connection)
        seen = _catalogue(connection, what)
        unchanged.check(connection, source, target, by_rename=True)
        prepared = switch.prepare(connection, what)
        opened = steps.visible.open(connection, target)
        switch.note_names(connection, what)
        registry.set_active(connection, target.projection, target.version, source.version)
        rebuild = steps.record(connection)
        source = registry.version(connection, source.projection, source.version)
        end_if_still(connection, STILL, WHOLE)
        # A view over blue at the same moment: whoever reads it has its lock and waits for blue's.
        carried.lock(connection, prepared.carried.locks, [lock_statement(connection, what)])
        since = time.monotonic()
        events = opened.apply(connection, _UNDER_LOCK)
        steps.ignored.apply(connection)
        standing.note(connection, rebuild, source, steps.visible.standing(connection, target))
        same = seen == _catalogue(connection, what)
        if not same:
            unchanged.check(connection, source, target, by_rename=True)
        if prepared.carried.relations or not same:
            carried.execute(connection, lambda: switch.prepare(connection, what))
        else:
            # Nothing can come to refer to the table any more, since that needs a lock on it.
            carried.run(connection, ["; ".join(prepared.statements)])
    return time.monotonic() - since, events


def lock_statement(connection: psycopg.Connection, what: Switch) -> str:
    """The first statement that concerns the application."""
    assert what.source is not None
    tables = sql.SQL(", ").join(qualified(*each) for each in what.source.tables.values())
    lock = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables)
    return lock.as_string(connection)


def _catalogue(connection: psycopg.Connection, what: Switch) -> str:
    """What tells the catalogue of both tables from what it was before a change."""
    assert what.source is not None
    tables = [
        qualified(*each).as_string(connection)
        for version in (what.source, what.target)
        for each in version.tables.values()
    ]
    row = connection.execute(_SQL["catalogue"], {"tables": tables}).fetchone()
    assert row is not None
    return str(row[0])


def limit_lock(connection: psycopg.Connection) -> None:
    """Let a try give up before the server would look for a deadlock, and end somebody's append."""
    wanted = random.uniform(_SHORTEST.total_seconds(), _LONGEST.total_seconds())  # noqa: S311 - spreads tries, guards nothing
    seconds = min(wanted, deadlock_timeout(connection).total_seconds() * 0.8)
    connection.execute(f"SET LOCAL lock_timeout = {max(1, int(seconds * 1000))}".encode())


def _wait_for_little(
    connection: psycopg.Connection, steps: Steps, deadline: float, again: str
) -> None:
    """Wait until what is visible and not settled is so little that the lock may be held for it; it
    is tried, and rolled back.

    Raises Unavailable.
    """
    said = False
    while True:
        steps.keep_up()
        since = time.monotonic()
        with connection.transaction(force_rollback=True):
            events = steps.visible.apply(connection)
        took = time.monotonic() - since
        if took <= _UNDER_LOCK.total_seconds():
            return
        if steps.stop() or time.monotonic() >= deadline:
            raise _too_much(events, took, again)
        if not said:
            said = True
            steps.say(f"waiting until fewer than {events:,} events are not settled")
        time.sleep(0.1)


def _too_much(events: int, took: float, again: str) -> Unavailable:
    return Unavailable(
        f"{count(events, 'event')} are not settled, and applying them takes {took:.1f} s, for "
        "which the application's writers would wait",
        hint="Nothing was changed. `esops status` says what keeps them from settling. When they "
        f"are, {again}.",
    )


def _bring_ignored(
    connection: psycopg.Connection, steps: Steps, deadline: float, again: str
) -> None:
    """Bring what is ignored as near as the lock needs it. Raises Unavailable."""
    while True:
        since = time.monotonic()
        steps.ignored.bring(connection)
        took = time.monotonic() - since
        if took <= _UNDER_LOCK.total_seconds():
            return
        if steps.stop() or time.monotonic() >= deadline:
            raise Unavailable(
                f"what verify.ignore names stays as it is in the rows, and to find those that have "
                f"changed takes {took:.1f} s, for which the application's writers would wait",
                hint=f"Nothing was changed. While the server has less to do, {again}.",
            )


def _long(connection: psycopg.Connection, what: Switch) -> list[Blocker]:
    """Who holds a lock on the tables in a transaction that is not one of the many short ones."""
    names = [name.identifier.as_string(connection) for name in what.names]
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    return [
        each
        for each in blockers(connection, names)
        if each.since is not None and row[0] - each.since > _LONG
    ]


def _blockers(connection: psycopg.Connection, what: Switch) -> list[Blocker]:
    """Who holds a lock on the tables, or on what is carried over."""
    names = [name.identifier.as_string(connection) for name in what.names]
    relations = switch.prepare(connection, what).carried.relations
    return blockers(connection, [*names, *relations])
