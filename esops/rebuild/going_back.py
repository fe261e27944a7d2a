"""Back to a version that the application wrote before a switch, where it writes with each append.

The old table gets exactly the events that it lacks, by the code that made it, and takes the other
table's place by the same switch. Until that, nothing of what serves is touched: whoever finds it
interrupted begins again, from the checkpoint that the old table has by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg

from esops.errors import Refused, Stopped
from esops.events import Position
from esops.readmodel import checkpoints, registry
from esops.rebuild import (
    inline_switch,
    journal,
    standing,
)
from esops.rebuild.ignored import IgnoredValues
from esops.rebuild.inline_switch import Lock
from esops.rebuild.options import Options
from esops.rebuild.ready_to_go_back import Going, Ready
from esops.rebuild.session import Session
from esops.rebuild.snapshots import SnapshotPatience
from esops.rebuild.verification.comparer import Comparer
from esops.rebuild.verification.result import Verification
from esops.running.runner import Runner
from esops.running.visible import VisibleEvents
from esops.running.work import RunControl, Work
from esops.stores.base import EventStore
from esops.wording import count

_GLANCE = timedelta(milliseconds=50)
_LOCK_PATIENCE = timedelta(seconds=10)
_SETTLING = timedelta(seconds=5)
"""How long what came since may take to settle, before the last of it is applied under the lock."""
_NEAR = Options().switch_lag


@dataclass(frozen=True)
class WentBack:
    """What was done: how many events were applied before the switch, how the rows compare with
    those that served, and what the switch made the application wait for.
    """

    events: int
    position: Position | None
    """Up to where all events were settled and applied."""
    verification: Verification
    lock: Lock

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "events": self.events,
            "verification": self.verification.as_dict(),
            "lock": self.lock.as_dict(),
        }


def go(
    session: Session,
    going: Going,
    ready: Ready,
    patience: SnapshotPatience,
    stop: Callable[[], bool],
    say: Callable[[str], None],
) -> WentBack:
    """Bring the version to the head, compare, and switch.

    Raises Stopped, Refused and Unavailable; then the version that served serves on.
    """
    target, wanted, connection = going.target, going.wanted, session.connection
    visible = VisibleEvents(going.store, wanted, target.definition, going.settings)
    code, end = target.code.fingerprint, ready.standing.end
    if end is not None:
        types = {**going.serving.value_types, **wanted.value_types, **ready.checked.types}
        standing.take_up(connection, wanted, visible, end, ready.late, code, types)
    work = Work.on(target.name, wanted.version, target.definition, going.settings)
    control = RunControl(stop=stop, say=say)
    runner = Runner(going.store, target.dsn, work, control, lock_patience=_LOCK_PATIENCE)
    try:
        lacks = count(ready.behind, "event")
        say(f"v{wanted.version} has not advanced since it served, and gets {lacks}")
        _keep_up(going.store, runner, stop)
        found = _compare(session, going, runner, visible)
        say(
            f"{count(found.rows_blue or 0, 'row')} in v{going.serving.version}, "
            f"{found.rows_green:,} in v{wanted.version}, {found.differing:,} differ"
        )

        def near() -> None:
            if stop():
                raise Stopped("stopped; nothing was switched")
            runner.step(_GLANCE)

        ignored = IgnoredValues(going.serving, wanted, target.settings.verify)
        steps = inline_switch.Steps(
            visible,
            near,
            lambda on: _record(on, going, ready, found.rows_green),
            stop,
            say,
            ignored,
        )
        lock = inline_switch.perform(connection, going.what, steps, patience)
        applied = runner.events + len(ready.late) + lock.events
        return WentBack(applied, runner.position, found, lock)
    finally:
        runner.close()


def _record(connection: psycopg.Connection, going: Going, ready: Ready, rows: int) -> int:
    """What goes into the switch's transaction."""
    wanted, serving, code = going.wanted, going.serving, going.target.code
    kept = ready.made_by
    at = registry.read_position(connection, wanted.projection, wanted.version)
    # From now on the application writes to it, and esops must not.
    checkpoints.release(connection, wanted)
    registry.set_rows(connection, wanted, rows)
    rebuild = journal.went_back(connection, wanted, serving.version, back=going.back)
    detail = {"code": code.fingerprint}
    journal.note(connection, rebuild, journal.SWITCHED, journal.INLINE, detail)
    if kept is not None and not code.made(kept):
        accepted = {"position": str(at), "before": kept, "now": code.fingerprint}
        journal.note(connection, rebuild, journal.SWITCHED, "code accepted", accepted)
    elif standing.old_code_is_gone(connection, serving, code) and standing.is_right(
        connection, wanted, code
    ):
        journal.note(connection, rebuild, journal.SWITCHED, journal.HEALED)
    return rebuild


def _keep_up(store: EventStore, runner: Runner, stop: Callable[[], bool]) -> None:
    """Follow until the lag has been small twice in a row."""
    small = 0
    # Else numbers that nobody will use hide what is settled, and it is applied under the lock.
    settled = store.head(_SETTLING, runner.position, stop).position
    if settled is not None:
        runner.run_until(settled)
    while small < 2:
        if stop():
            raise Stopped(f"stopped at position {runner.position}; nothing was switched")
        runner.step(_GLANCE)
        head: Position | None = store.head(_GLANCE, runner.position).position
        lag = 0 if head is None else store.counts.between(runner.position, head)
        small = small + 1 if lag <= _NEAR else 0


def _compare(
    session: Session, going: Going, runner: Runner, visible: VisibleEvents
) -> Verification:
    """How the rows compare with those that serve: in one snapshot, with all that is visible there.

    They are of other logic, so that they may differ; what has to be true of them are the user's
    assertions. Raises Refused where one is not.
    """
    verify = going.target.settings.verify
    comparer = Comparer(session, going.target.dsn, going.store, going.wanted, "columns", verify)
    found = comparer.brought_up(going.serving, str(runner.position), visible.apply)
    failed = comparer.assertions(found, verify.assertions).failed_assertions
    if failed:
        raise Refused(
            f"v{going.wanted.version} of {going.target.name} does not pass: {'; '.join(failed)}",
            hint="Nothing was switched. Correct the assertion, or the rows.",
        )
    return found
