"""Back to a version that the application wrote before a switch, where it writes with each append.

The old table has not advanced since the switch, and what is in its rows was noted then. So it gets
exactly the events that it lacks, by the code that made it, and takes the other table's place by the
same switch. Until that, nothing of what serves is touched: whoever finds it interrupted begins
again, from the checkpoint that the old table has by then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psycopg

from esops.config import Config
from esops.errors import Refused, Stopped, Unavailable
from esops.events import Position, RecordedEvent, StreamKey
from esops.projections.definition import FoldDefinition
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import (
    guards,
    inline_switch,
    journal,
    standing,
    switch,
    unchanged,
)
from esops.rebuild.ignored import IgnoredValues
from esops.rebuild.inline_switch import Lock
from esops.rebuild.options import Options
from esops.rebuild.session import Session
from esops.rebuild.snapshots import SnapshotPatience
from esops.rebuild.standing_rows import MOST_ONLY_HERE, Checked, StandingRows
from esops.rebuild.target import Target
from esops.rebuild.verification.comparer import Comparer
from esops.rebuild.verification.result import Verification
from esops.running.runner import Runner
from esops.running.visible import Standing, VisibleEvents
from esops.running.work import RunControl, Work
from esops.settings import ProjectionSettings
from esops.stores.archive.archived_away import join_with, removed_from
from esops.stores.base import EventStore
from esops.stores.shortened import by_type, in_words, not_taken
from esops.wording import count

_GLANCE = timedelta(milliseconds=50)
_LOCK_PATIENCE = timedelta(seconds=10)
_SETTLING = timedelta(seconds=60)
"""How long the events from before the last switch may take to settle."""
_SETTLING_BEFORE = timedelta(seconds=5)
"""How long those that came since may take before the last of them are applied under the lock."""
_NEAR = Options().switch_lag
_SHOWN = 5


@dataclass(frozen=True)
class Going:
    """From the version that serves to one that stands by; `back`: it is the one that served
    before.
    """

    config: Config
    target: Target
    store: EventStore
    serving: Version
    wanted: Version
    back: bool
    accept_code: bool
    accept_stale: bool

    @property
    def settings(self) -> ProjectionSettings:
        """Those that the version is made by: what the application applied counts, whether or not
        its stream is archived by now.
        """
        return self.target.settings.model_copy(update={"include_archived": True})

    @property
    def what(self) -> switch.Switch:
        """What is switched."""
        return switch.Switch(self.target.names, "rename", self.serving, self.wanted)

    @property
    def from_the_events(self) -> str:
        """What is always possible, as the end of a hint."""
        return (
            f"build it from the events, by the code of v{self.wanted.version}: esops rebuild "
            f"{self.target.name} --blue-green --max-diff 100%"
        )


@dataclass(frozen=True)
class Ready:
    """That a version can be gone to: what it has, the events before the end of that which it
    lacks, and what its rows were found to be.
    """

    standing: Standing
    made_by: str | None
    """The fingerprint of the code that made its rows; None where the application alone did."""
    late: Sequence[RecordedEvent]
    checked: Checked
    behind: int
    notes: Sequence[str]


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


def look(connection: psycopg.Connection, going: Going, stop: Callable[[], bool]) -> Ready:
    """Whether a version can be gone to, and what has to be done. Changes nothing.

    Raises Refused that says why not, Unavailable where events do not settle, Stopped.
    """
    name, wanted = going.target.name, going.wanted
    notes = guards.check_written_inline(connection, going.store, going.target, Options())
    unchanged.check(connection, going.serving, going.wanted, by_rename=True)
    _check_code(connection, going)
    stands = standing.of(connection, wanted)
    if stands is None:
        raise Refused(
            f"it is not known which events the rows of v{wanted.version} of {name} have: an older "
            "esops switched from it, or too many events were not settled then",
            hint=f"So {going.from_the_events}",
        )
    _check_archived(going, stands)
    _check_shortened(connection, going, stands)
    late, around = _around(going, stands, stop)
    checked = Checked()
    if _by_stream(going.target):
        target = replace(going.target, settings=going.settings)
        rows = StandingRows(connection, going.store, target, wanted, stands)
        checked = rows.check(going.serving, around, stop)
        _check_rows(going, checked)
    head = going.store.head(timedelta(milliseconds=200), stands.end).position
    behind = 0 if head is None else going.store.counts.between(stands.end, head)
    return Ready(stands, _made_by(connection, wanted), late, checked, behind, notes)


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
    registry.release(connection, wanted)
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


# -- whether it can be done


def _by_stream(target: Target) -> bool:
    return isinstance(target.definition, FoldDefinition) and target.definition.key is None


def _made_by(connection: psycopg.Connection, version: Version) -> str | None:
    """The fingerprint of the code that made a version; None of one that only the application
    made.
    """
    made = journal.switched_inline(connection, version.projection, version.version)
    return version.fingerprint or (None if made is None else made.code)


def _check_code(connection: psycopg.Connection, going: Going) -> None:
    """Raises Refused where esops.toml does not name the code of the version that is gone to, as far
    as that is known.
    """
    if going.accept_code:
        return
    name, code = going.target.name, going.target.code
    wanted, serving = going.wanted.version, going.serving.version
    kept = _made_by(connection, going.wanted)
    of_serving = _made_by(connection, going.serving)
    fix = (
        f"Nothing was changed. Put the code of v{wanted} back, in the application and where "
        "esops.toml finds it, and run this again."
    )
    if kept is not None and not code.made(kept):
        now = f"that of v{serving}" if code.made(of_serving) else "another one"
        raise Refused(
            f"v{wanted} of {name} was made by other code than esops.toml names now, which is {now}",
            hint=f"{fix} If both make the same rows: --accept-code",
        )
    if kept is None and of_serving is not None and code.made(of_serving):
        raise Refused(
            f"esops.toml still names the code of v{serving} of {name}, from which you go back",
            hint=f"{fix} If the application made v{wanted} by the same: --accept-code",
        )
    if kept is None and not _by_stream(going.target):
        raise Refused(
            f"the application alone made v{wanted} of {name}, of the events of several streams, so "
            "that it cannot be known whether esops.toml names the code of then",
            hint="If it does: --accept-code",
        )
    guards.check_one_code(connection, going.wanted)


def _check_archived(going: Going, stands: Standing) -> None:
    """Raises Refused where events that a version lacks were archived and removed."""
    wanted = going.wanted
    assert wanted.updated_at is not None
    since = wanted.updated_at - timedelta(days=1)  # clocks
    found = removed_from(going.config, going.store, going.settings.filter, since, stands.position)
    for away in found:
        raise Refused(
            f"{away}, up to position {away.last_position}, and v{wanted.version} of "
            f"{wanted.projection} has not advanced since {stands.position}: it would miss some of "
            "them",
            hint=join_with(going.config, going.target.store_name, away),
        )


def _check_shortened(connection: psycopg.Connection, going: Going, stands: Standing) -> None:
    """Raises Refused where streams have lost events that a version lacks, as when a library
    compacted them.
    """
    inline, wanted = going.store.inline, going.wanted
    if stands.end is None or inline is None:
        return
    all_of = replace(going.settings.filter, archived=True)
    late = inline.late_beginnings(connection, stands.end, all_of)
    shortened = by_type(going.store, late, going.settings.filter)
    found = not_taken(shortened, going.settings.begins_with)
    if found:
        raise Refused(
            f"since v{wanted.version} of {wanted.projection} served, "
            f"{in_words(found[0])} (one is {found[0].example!r}): it would miss them",
            hint="Nothing was changed. See `esops docs rebuild-compacted-streams`.",
        )


def _around(
    going: Going, stands: Standing, stop: Callable[[], bool]
) -> tuple[list[RecordedEvent], list[StreamKey]]:
    """The events before the end of what a version has that it lacks, since they committed after the
    switch; and the streams of all events that were not settled then.

    Raises Unavailable where some are not settled yet, and Stopped.
    """
    end = stands.end
    if end is None or end == stands.position:
        return [], []
    deadline = time.monotonic() + _SETTLING.total_seconds()
    while True:
        head = going.store.head(timedelta(seconds=1), stands.position, stop)
        if head.position is not None and head.position >= end:
            break
        if stop():
            raise Stopped("stopped; nothing was changed")
        if time.monotonic() >= deadline:
            who = "; ".join(each.in_words() for each in head.held_back_by[:_SHOWN])
            raise Unavailable(
                f"events up to {end}, from before the last switch, are not settled yet: {who}",
                hint="Nothing was changed. Run this again when they are.",
            )
        time.sleep(0.2)
    filter = going.settings.filter
    events = [
        each
        for batch in going.store.read_all(stands.position, end, filter)
        for each in batch.events
    ]
    streams = dict.fromkeys(StreamKey(each.stream, each.tenant) for each in events)
    return [each for each in events if not stands.has(each.position)], list(streams)


def _check_rows(going: Going, found: Checked) -> None:
    """Raises Refused where rows are not what the code makes of their events, or are of streams that
    were deleted since.
    """
    name, wanted, serving = going.target.name, going.wanted, going.serving
    if found.unlike and not going.accept_code:
        some = ", ".join(found.unlike[:_SHOWN])
        raise Refused(
            f"of {count(found.rows, 'row')} of v{wanted.version} of {name} that were looked at, "
            f"{len(found.unlike):,} are not what the code in esops.toml makes of their events: "
            f"{some}",
            hint=f"Nothing was changed. Put the code of v{wanted.version} back. If it is that, the "
            "rows were so before, as those of two logics are: with --accept-code they come back, "
            f"and `esops projection finish {name}` makes them right. Or {going.from_the_events}",
        )
    if found.deleted and not going.accept_stale:
        some = ", ".join(found.deleted[:_SHOWN])
        table = ".".join(wanted.table)
        raise Refused(
            f"{count(len(found.deleted), 'row')} of v{wanted.version} of {name} would come back "
            f"whose streams are gone, and which v{serving.version} does not have: {some}",
            hint=f"Nothing was changed. Delete them from {table}, or let them come back: "
            "--allow-stale",
        )
    if found.more_only_here and not going.accept_stale:
        raise Refused(
            f"v{wanted.version} of {name} has more than {MOST_ONLY_HERE:,} rows that "
            f"v{serving.version} does not have: too many to look for each one's stream, which may "
            "be gone",
            hint="Nothing was changed. If rows of streams that are gone may come back: "
            f"--allow-stale. Or {going.from_the_events}",
        )


# -- how it is done


def _keep_up(store: EventStore, runner: Runner, stop: Callable[[], bool]) -> None:
    """Follow until the lag has been small twice in a row."""
    small = 0
    # Else numbers that nobody will use hide what is settled, and it is applied under the lock.
    settled = store.head(_SETTLING_BEFORE, runner.position, stop).position
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
