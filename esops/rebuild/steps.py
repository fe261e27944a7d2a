"""A rebuild as a story: provision, catch up, build what was left off, follow, verify, switch.

Each step can be done again: it looks what is there and does what is missing. The journal holds the state before and after;
whoever finds it unfinished can go on. While it works, a rebuild holds its projection's lock and green's; blue is touched by
nothing but the comparison's reads and the one transaction of the switch.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import psycopg
import structlog

from esops.backends.base import EventStore, Holder
from esops.backends.postgres import catalog
from esops.backends.postgres.connect import connect, process_name, qualified, translated
from esops.errors import Busy, ConnectionLost, EsopsError, Refused, Stopped, Unavailable, UsageError
from esops.events import Position
from esops.projections import locks, readmodel, registry
from esops.projections.registry import Version
from esops.projections.runner import Progress, Runner, Work, key_noted
from esops.rebuild import journal, switch, verify
from esops.rebuild.plan import Options, Plan, Target, green_of

log = structlog.get_logger("esops.rebuild")
T = TypeVar("T")
_SETTLE_PATIENCE = timedelta(seconds=1)
_FREEZE_PATIENCE = timedelta(seconds=30)
_RECONNECT_PATIENCE = timedelta(minutes=10)


class Watcher(Protocol):
    """Who wants to know how a rebuild goes."""

    def say(self, text: str) -> None:
        """A state was reached, or something is waited for."""
        ...

    def progress(self, done: int, total: int | None) -> None:
        """So many events of so many are in green."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rebuild did. `seconds` is working time over all its sessions; `events` what green was made of."""

    rebuild: int
    projection: str
    state: str
    from_version: int | None
    to_version: int
    events: int
    rows: int | None
    seconds: float
    position: Position | None
    verification: Mapping[str, Any] | None
    findings: bool = False
    followed: bool = False

    @property
    def events_per_second(self) -> float:
        """Over the working time."""
        return self.events / self.seconds if self.seconds > 0 else 0.0


class Rebuild:
    """One rebuild of one projection, at work. Use it as a context: it gives its locks back."""

    def __init__(self, target: Target, store: EventStore, watcher: Watcher, stop: Callable[[], bool] = lambda: False) -> None:
        """Connect and take the projection's lock. Raises Busy that says who has it."""
        self.target, self.store, self._watcher, self._stop = target, store, watcher, stop
        self._started = time.monotonic()
        self._runner: Runner | None = None
        self._entry: journal.Entry | None = None
        self._options = Options()
        self.connection = connect(target.dsn, f"rebuild {target.name}")
        try:
            self._take_lock(timedelta(0))
        except BaseException:
            self.connection.close()
            raise

    def __enter__(self) -> Rebuild:
        return self

    def __exit__(self, *_: object) -> None:
        if self._runner is not None:
            self._runner.close()
        self.connection.close()

    # -- ways in

    def begin(self, plan: Plan, options: Options) -> Outcome:
        """Do a plan from its start. Raises Refused if another rebuild is unfinished."""
        with translated():
            entry = journal.latest(self.connection, self.target.name)
            if entry is not None and entry.finished_at is None:
                raise Refused(
                    f"rebuild {entry.rebuild} of {self.target.name} is not finished: {entry.state}"
                    + (f" ({entry.reason})" if entry.reason else ""),
                    hint="Go on with --resume, or give it up with --abort.",
                )
            registry.install(self.connection)
            from_version = plan.source.version if plan.source else None
            with self.connection.transaction():
                if plan.adopt and plan.source is not None:
                    registry.insert(self.connection, plan.source)
                    registry.set_active(self.connection, self.target.name, plan.source.version, None)
                entry = journal.begin(
                    self.connection,
                    self.target.name,
                    from_version,
                    plan.to_version,
                    {**options.as_dict(), "compare": plan.compare, "create": [*plan.create, *plan.drop_now]},
                )
                registry.insert(self.connection, self._planned_version(plan))
        return self._run(entry)

    def resume(self, options: Mapping[str, Any]) -> Outcome:
        """Go on where the last process stopped or died, with these options changed. A finished one is only reported."""
        with translated():
            entry = journal.latest(self.connection, self.target.name)
            if entry is None:
                raise UsageError(f"no rebuild of {self.target.name} was ever begun", hint="Leave --resume out.")
            if entry.finished_at is not None:
                self._entry = entry
                return self._outcome(findings=False)
            entry = replace(journal.take_up(self.connection, entry), options={**entry.options, **options})
        self._watcher.say(f"resuming rebuild {entry.rebuild} of {self.target.name} at state {entry.state}")
        return self._run(entry)

    def abort(self) -> Outcome:
        """Give an unfinished rebuild up and drop green. Raises UsageError where there is none."""
        with translated():
            entry = journal.latest(self.connection, self.target.name)
            if entry is None or entry.finished_at is not None:
                raise UsageError(f"there is no unfinished rebuild of {self.target.name} to abort")
            with self.connection.transaction():
                green = registry.version(self.connection, self.target.name, entry.to_version)
                readmodel.drop(self.connection, green)
                registry.set_state(self.connection, self.target.name, green.version, "aborted")
                journal.enter(self.connection, entry.rebuild, journal.ABORTED, finished=True)
            self._entry = journal.latest(self.connection, self.target.name)
        return self._outcome(findings=False)

    # -- the story

    def _run(self, entry: journal.Entry) -> Outcome:
        self._entry = entry
        known = {key: value for key, value in entry.options.items() if key in Options.__dataclass_fields__}
        self._options = Options(**known)
        log.info("rebuild", rebuild=entry.rebuild, projection=entry.projection, to_version=entry.to_version, state=entry.state)
        state = entry.state
        try:
            self._check_code()
            if state == journal.PLANNED:
                state = self._provision()
            if state in {journal.PROVISIONED, journal.CATCHING_UP}:
                state = self._catch_up()
            if state == journal.FOLLOWING:
                self._follow()
                if not self._verify():
                    self._pause(state, "the verification found differences")
                    return self._outcome(findings=True)
                state = self._enter(journal.VERIFIED)
            if not self._options.switch:
                self._stand_by()
            elif state == journal.VERIFIED:
                self._follow()
                self._switch()
        except Stopped as stopped:
            self._pause(state, "asked to stop")
            raise Stopped(
                f"rebuild {entry.rebuild} of {self.target.name} is paused: {stopped.message}", hint="Go on with --resume."
            ) from None
        except ConnectionLost:
            raise
        except EsopsError as error:
            self._pause(state, error.message)
            raise
        return self._outcome(findings=False)

    def _provision(self) -> str:
        """Make green, and take its indexes off, in one transaction."""
        self._watcher.say(f"making green: {self._green().table[1]}")

        def make(connection: psycopg.Connection) -> None:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '5s'")
                if catalog.find_table(connection, *self._green().table) is None:
                    for statement in self._the_entry.options["create"]:
                        connection.execute(statement.encode())
                journal.enter(connection, self._the_entry.rebuild, journal.PROVISIONED)

        self._journal(make)
        return journal.PROVISIONED

    def _catch_up(self) -> str:
        """Load all events that are settled, build keys and indexes, analyse; compare on the way where blue stands still."""
        self._enter(journal.CATCHING_UP)
        runner = self._take_runner()
        blue = self._blue()
        head = self._head()
        standing = blue.position if blue is not None and not self._followed(blue) else None
        early = standing is not None and head is not None and (runner.position is None or runner.position <= standing <= head)
        if early and standing is not None:
            self._watcher.say(f"catching up to v{blue.version if blue else '?'}, which stands still at position {standing}")
            self._load(runner, standing)
            self._build(runner)
            if blue is not None:
                self._compare_in_snapshot(blue, str(standing))
        if head is not None:
            self._watcher.say(f"catching up to position {head}")
            self._load(runner, head)
        self._build(runner)
        return self._enter(journal.FOLLOWING)

    def _load(self, runner: Runner, until: Position) -> None:
        self._total = self._done + self.store.count_between(runner.position, until)
        runner.run_until(until)

    def _build(self, runner: Runner) -> None:
        """Build what is missing of keys and indexes, then the statistics."""
        self._watcher.say("building keys and indexes")
        green = self._green()
        with translated():
            built = readmodel.build(runner.connection, green)
            if built or runner.events:
                name = qualified(*green.table)
                runner.connection.execute(b"ANALYZE " + name.as_bytes(runner.connection))
        if built:
            self._note("built", {"built": built})

    def _follow(self) -> None:
        """Keep up until the lag has been small twice."""
        runner = self._take_runner()
        small = 0
        while small < 2:
            if self._stop():
                raise Stopped(f"stopped at position {runner.position}")
            runner.step(timedelta(milliseconds=50))
            head = self._head()
            lag = self.store.count_between(runner.position, head) if head is not None else 0
            small = small + 1 if lag <= self._options.switch_lag else 0
            if lag > self._options.switch_lag:
                self._watcher.say(f"following: {lag:,} events behind")
            elif small < 2:
                time.sleep(0.05)

    def _verify(self) -> bool:
        """Compare green with blue at one position, and ask the user's assertions; whether the switch may go on."""
        runner = self._take_runner()
        self._build(runner)
        blue = self._blue()
        entry = self._refresh()
        if blue is None:
            self._keep(verify.Verification("none", None, self._rows(), 0, str(runner.position), note="nothing served before"))
        elif entry.verification is None:
            self._watcher.say("verifying")
            if blue.position is None:
                note = f"v{blue.version} has no checkpoint: compared as it stood"
                self._compare_in_snapshot(blue, str(runner.position), note)
            else:
                self._compare_at_one_position(blue, runner)
        found = self._assertions(self._verification())
        fine = verify.tolerated(found, self._options.max_diff)
        if not fine:
            # Kept for the summary; a resumed rebuild compares again.
            self._keep(found)
        return fine

    def _compare_at_one_position(self, blue: Version, runner: Runner) -> None:
        """Hold blue's checkpoint still, bring green exactly there, take a snapshot of both, and let go."""
        deadline = time.monotonic() + _FREEZE_PATIENCE.total_seconds()
        while True:
            with translated(), connect(self.target.dsn, f"verify {self.target.name}") as snapshot:
                with self.connection.transaction(force_rollback=True):
                    held = registry.lock_row(self.connection, blue.projection, blue.version)
                    assert held is not None
                    if runner.position is None or runner.position <= held:
                        if runner.position != held:
                            runner.run_until(held)
                        self._begin_snapshot(snapshot)
                if snapshot.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                    self._compare(snapshot, blue, str(held), None)
                    return
            if not self._followed(blue) or time.monotonic() >= deadline:
                lag = self.store.count_between(held, runner.position)
                note = f"v{blue.version} stands {lag:,} events behind green and nobody moves it on: rows of these events differ"
                self._compare_in_snapshot(blue, str(runner.position), note)
                return
            time.sleep(0.02)

    def _compare_in_snapshot(self, blue: Version, position: str, note: str | None = None) -> None:
        with translated(), connect(self.target.dsn, f"verify {self.target.name}") as snapshot:
            self._begin_snapshot(snapshot)
            self._compare(snapshot, blue, position, note)

    @staticmethod
    def _begin_snapshot(snapshot: psycopg.Connection) -> None:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot.execute("SELECT pg_current_snapshot()")

    def _compare(self, snapshot: psycopg.Connection, blue: Version, position: str, note: str | None) -> None:
        green = self._green()
        blue_table, green_table = catalog.find_table(snapshot, *blue.table), catalog.find_table(snapshot, *green.table)
        if blue_table is None or green_table is None:
            raise Refused("a table that was to be compared is gone")
        key = green_table.key or key_noted(green)
        method: verify.Method = self._options.compare or "exact"  # type: ignore[assignment]
        found = verify.compare(snapshot, blue_table, green_table, key, method, self.target.settings.verify.ignore)
        self._keep(replace(found, position=position, note=found.note or note))

    def _assertions(self, found: verify.Verification) -> verify.Verification:
        with translated():
            green = catalog.find_table(self.connection, *self._green().table)
            assert green is not None
            failed = verify.check_assertions(self.connection, green, self.target.settings.verify.assertions)
        return replace(found, failed_assertions=failed)

    def _switch(self) -> None:
        """Point the name at green, with green at or past blue, in one transaction with the journal's entry."""
        runner = self._take_runner()
        blue, green = self._blue(), self._green()
        self._watcher.say(f"switching {self.target.plain} to v{green.version}")

        def record(connection: psycopg.Connection) -> None:
            journal.enter(connection, self._the_entry.rebuild, journal.SWITCHED, finished=True)

        def bring_to(position: Position) -> None:
            if runner.position is None or runner.position < position:
                runner.run_until(position)

        def do(connection: psycopg.Connection) -> None:
            if registry.version(connection, green.projection, green.version).state == "active":
                return
            switch.perform(
                connection,
                self.target.plain,
                self.target.settings.switch,
                blue,
                green,
                bring_to=bring_to,
                record=record,
                stop=self._stop,
                say=self._watcher.say,
            )

        self._journal(do)

    def _stand_by(self) -> None:
        green = self._green()

        def do(connection: psycopg.Connection) -> None:
            with connection.transaction():
                registry.set_state(connection, green.projection, green.version, "standby")
                journal.enter(connection, self._the_entry.rebuild, journal.VERIFIED, finished=True)

        self._journal(do)

    # -- what the steps stand on

    @property
    def _the_entry(self) -> journal.Entry:
        assert self._entry is not None
        return self._entry

    @property
    def _done(self) -> int:
        return self._green().events

    def _planned_version(self, plan: Plan) -> Version:
        after_load = tuple(
            {
                "what": each.what,
                "statement": each.statement,
                "primary": each.primary,
                "key": list(plan.key) if each.primary else [],
            }
            for each in plan.after_load
        )
        return Version(
            projection=self.target.name,
            version=plan.to_version,
            state="building",
            store=self.target.store_name,
            position=None,
            events=0,
            rows=0,
            tables={self.target.plain.name: green_of(self.target.plain, plan.physical)},
            fingerprint=self.target.code,
            after_load=after_load,
        )

    def _check_code(self) -> None:
        """A version is made by one code from its first event to its last."""
        green = self._green()
        if green.fingerprint != self.target.code:
            raise Refused(
                f"the code of {self.target.name} has changed since rebuild {self._the_entry.rebuild} began",
                hint="Put the code back to go on, or --abort and begin again.",
            )

    def _take_runner(self) -> Runner:
        if self._runner is None:
            target, green = self.target, self._green()
            work = Work(
                target.name,
                green.version,
                target.definition,
                target.filter,
                target.settings.on_error,
                target.settings.cache_rows,
                self._options.batch_size,
            )
            self._done_before = green.events
            self._runner = Runner(
                self.store,
                target.dsn,
                work,
                stop=self._stop,
                report=self._report,
                say=self._watcher.say,
                lock_patience=timedelta(seconds=10),
            )
        return self._runner

    def _report(self, progress: Progress) -> None:
        self._watcher.progress(self._done_before + progress.events, getattr(self, "_total", None))

    def _head(self) -> Position | None:
        """The settled head; says by whom it is held back where nothing is settled yet."""
        said = False
        while True:
            if self._stop():
                raise Stopped("stopped while waiting for the first settled position")
            try:
                head = self.store.head(_SETTLE_PATIENCE, self._runner.position if self._runner else None)
                holders: list[Holder] = self.store.held_back_by() if head is None else []
            except ConnectionLost as lost:
                self._watcher.say(f"waiting for the store: {lost.message}")
                time.sleep(1)
                continue
            if head is not None or not holders:
                return head
            if not said:
                self._watcher.say(f"nothing is settled yet: held back by {holders[0].who}, {holders[0].what}")
                said = True

    def _green(self) -> Version:
        return self._journal(lambda on: registry.version(on, self.target.name, self._the_entry.to_version))

    def _blue(self) -> Version | None:
        number = self._the_entry.from_version
        return None if number is None else self._journal(lambda on: registry.version(on, self.target.name, number))

    def _followed(self, version: Version) -> bool:
        name = locks.version_lock(version.projection, version.version)
        return self._journal(lambda on: locks.holder(on, name)) is not None

    def _rows(self) -> int:
        return self._green().rows or 0

    def _enter(self, state: str) -> str:
        self._journal(lambda on: journal.enter(on, self._the_entry.rebuild, state))
        log.info("state", rebuild=self._the_entry.rebuild, state=state)
        return state

    def _note(self, event: str, detail: Mapping[str, Any]) -> None:
        self._journal(lambda on: journal.note(on, self._the_entry.rebuild, self._the_entry.state, event, detail))

    def _keep(self, found: verify.Verification) -> None:
        self._journal(lambda on: journal.keep_verification(on, self._the_entry.rebuild, found.as_dict()))

    def _verification(self) -> verify.Verification:
        kept = self._refresh().verification
        assert kept is not None
        return verify.Verification(**kept)

    def _refresh(self) -> journal.Entry:
        entry = self._journal(lambda on: journal.latest(on, self.target.name))
        assert entry is not None
        self._entry = replace(entry, options=self._the_entry.options)
        return entry

    def _pause(self, state: str, reason: str) -> None:
        try:
            journal.pause(self.connection, self._the_entry, state, reason)
            journal.add_seconds(self.connection, self._the_entry.rebuild, self._take_seconds())
        except psycopg.Error as error:
            log.warning("the pause could not be noted", error=str(error))

    def _take_seconds(self) -> float:
        now = time.monotonic()
        seconds, self._started = now - self._started, now
        return seconds

    def _outcome(self, *, findings: bool) -> Outcome:
        entry = self._refresh()
        seconds = entry.seconds
        if self._runner is not None:
            seconds = self._journal(lambda on: journal.add_seconds(on, entry.rebuild, self._take_seconds()))
        green = self._green()
        return Outcome(
            entry.rebuild,
            entry.projection,
            entry.state,
            entry.from_version,
            entry.to_version,
            green.events,
            green.rows,
            seconds,
            green.position,
            entry.verification,
            findings,
            followed=self._followed(green) and self._runner is None,
        )

    def _journal(self, do: Callable[[psycopg.Connection], T]) -> T:
        """Do something on the journal's connection; if that is lost, wait for the database and do it again."""
        deadline, pause = time.monotonic() + _RECONNECT_PATIENCE.total_seconds(), 0.2
        while True:
            try:
                with translated():
                    if self.connection.closed:
                        self.connection = connect(self.target.dsn, f"rebuild {self.target.name}")
                        self._take_lock(timedelta(seconds=5))
                    return do(self.connection)
            except ConnectionLost as lost:
                self.connection.close()
                if self._stop():
                    raise Stopped("stopped while the database was away") from None
                if time.monotonic() >= deadline:
                    raise Unavailable(f"the database stayed away for ten minutes: {lost.message}") from lost
                self._watcher.say(f"waiting for the database: {lost.message}")
                time.sleep(pause)
                pause = min(pause * 1.5, 5.0)

    def _take_lock(self, patience: timedelta) -> None:
        name = locks.rebuild_lock(self.target.name)
        with translated():
            if locks.take(self.connection, name, patience):
                return
            holder = locks.holder(self.connection, name)
            entry = journal.latest(self.connection, self.target.name)
            if holder is not None and entry is not None and _dead(entry, holder):
                # The process that began it is gone; its server session may still be at a long statement.
                self.connection.execute("SELECT pg_terminate_backend(%s)", (holder.pid,))
                if locks.take(self.connection, name, timedelta(seconds=10)):
                    return
            if locks.take(self.connection, name, timedelta(seconds=1)):
                return
        raise Busy(
            f"another rebuild of {self.target.name} is at work: {holder or 'its session is just ending'}",
            hint="Wait for it, or stop it; it can be resumed.",
        )


def _dead(entry: journal.Entry, holder: locks.LockHolder) -> bool:
    """Whether a lock's holder is the session of an unfinished rebuild whose process ran on this host and is gone."""
    if entry.finished_at is not None or not holder.application.startswith(process_name(entry.host, entry.pid) + " "):
        return False
    if entry.host != socket.gethostname() or entry.pid == os.getpid():
        return False
    try:
        os.kill(entry.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
