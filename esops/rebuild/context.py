"""What the steps of a rebuild share: its session and locks, its runner and throttle, the journal,
the hooks, and whom it reports to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self

import psycopg
import structlog

from esops.errors import ConnectionLost, EsopsError, Stopped
from esops.events import Position
from esops.readmodel import conduct, marks, registry
from esops.readmodel.dead_letters import count_dead_letters
from esops.readmodel.registry import Version
from esops.rebuild import guards, journal
from esops.rebuild.hooks import Hooks, facts_of
from esops.rebuild.inline_switch import Lock
from esops.rebuild.load.estimate import Load
from esops.rebuild.options import Options
from esops.rebuild.outcome import Outcome, Reporter
from esops.rebuild.session import Session
from esops.rebuild.shortened import LostWhileBuilding
from esops.rebuild.target import Target
from esops.rebuild.verification.comparer import Comparer
from esops.rebuild.verification.result import Method, Verification
from esops.running.runner import Runner
from esops.running.throttle import Throttle
from esops.running.work import Progress, Reader, RunControl, Work
from esops.stores.base import EventStore, Holder

log = structlog.get_logger("esops.rebuild")
_SETTLE_PATIENCE = timedelta(seconds=1)
_LOCK_PATIENCE = timedelta(seconds=10)
_DROPPED = (journal.ABORTED, journal.TESTED)
"""States in which nothing is left to warn of."""


class RebuildContext:
    """A rebuild's own things. Use it with `with`: at the end it gives its locks back."""

    in_place = False

    def __init__(
        self,
        target: Target,
        store: EventStore,
        reporter: Reporter,
        stop: Callable[[], bool] = lambda: False,
        read: Reader = lambda *_: None,
        connection: psycopg.Connection | None = None,
    ) -> None:
        """Take the projection's lock, on a new connection or on this one, which is the rebuild's
        from now on.

        `read` gives events that somebody else reads (see RunControl). Raises Busy that says who has
        the lock.
        """
        self._read = read
        self.target, self.store, self._reporter, self._stop = target, store, reporter, stop
        self._started = time.monotonic()
        self._runner: Runner | None = None
        self._throttle: Throttle | None = None
        self._entry: journal.JournalEntry | None = None
        self._options = Options()
        self._state = journal.PLANNED
        self._compared = False
        """Whether green was compared by this process."""
        self._done_before = 0
        self._load: Load | None = None
        """What is loaded at the moment."""
        self._will_be_followed = False
        self._handed_over_at: Position | None = None
        self._lock: Lock | None = None
        """What the switch made the application wait for, where it writes the read model itself."""
        self._worked = False
        self._described: Position | None = None
        """Where green was when this process gathered its statistics and counted its rows."""
        self._held_back: list[Holder] = []
        """Who kept the head back when it was looked at last."""
        self._all_applied = False
        """Whether all that was committed at some moment of this process has been settled and
        applied.
        """
        self._lost = LostWhileBuilding(store, target.name, target.settings)
        self._last_message = self._announcement = ""
        self._session = Session(target.dsn, target.name, stop, self._say, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lost.forget()
        self._close_runner()
        self._session.close()

    # -- what it works with

    @property
    def _journal_entry(self) -> journal.JournalEntry:
        assert self._entry is not None
        return self._entry

    @property
    def _hooks(self) -> Hooks:
        return Hooks(self.target.settings.hooks, self.target.directory, self._say)

    def _open_runner(self) -> Runner:
        """The runner that advances green; it is opened once and holds green's lock."""
        if self._runner is None:
            target, green = self.target, self._green()
            work = Work.on(
                target.name,
                green.version,
                target.definition,
                target.settings,
                self._options.batch_size,
            )
            # A runner counts only what it applies itself; progress is about all of green.
            self._done_before = green.events
            control = RunControl(
                stop=self._stop,
                say=self._say,
                report=self._report,
                throttle=self._open_throttle(),
                read=self._read,
            )
            self._runner = Runner(
                self.store, target.dsn, work, control, lock_patience=_LOCK_PATIENCE
            )
        return self._runner

    def _open_throttle(self) -> Throttle:
        if self._throttle is None:
            self._throttle = Throttle(
                self.target.dsn,
                self.target.name,
                self._options.limits,
                stop=self._stop,
                say=self._say,
            )
        return self._throttle

    def _close_runner(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._throttle is not None:
            self._throttle.close()

    def _comparer(self) -> Comparer:
        method: Method = self._options.compare or "exact"  # type: ignore[assignment]
        return Comparer(
            self._session,
            self.target.dsn,
            self.store,
            self._green(),
            method,
            self.target.settings.verify,
        )

    def _green(self) -> Version:
        """The version that is built, as the registry has it now."""
        return self._session.do(
            lambda on: registry.version(on, self.target.name, self._journal_entry.to_version)
        )

    def _blue(self) -> Version | None:
        """The version that served when the rebuild began, as the registry has it now."""
        number = self._journal_entry.from_version
        return (
            None
            if number is None
            else self._session.do(lambda on: registry.version(on, self.target.name, number))
        )

    def _apart(self, blue: Version) -> bool:
        """Whether blue was made of another log, so that no position of it is one of green's."""
        return blue.position is not None and not self._session.do(
            lambda on: marks.same_log(on, self.store, blue)
        )

    def _command(self, *, in_place: bool) -> str:
        return f"esops rebuild {self.target.name}" + ("" if in_place else " --blue-green")

    # -- the head of the store

    def _head(self, patience: timedelta = _SETTLE_PATIENCE) -> Position | None:
        """The settled head; None where the store has no event.

        Waits while events are there and none of them is settled. `_held_back` says afterwards who
        keeps the head back. Raises Stopped.
        """
        said = False
        while True:
            if self._stop():
                raise Stopped("stopped while waiting for the first events to settle")
            try:
                # Up to the runner's position everything was settled once and is not judged again.
                head = self.store.head(
                    patience, self._runner.position if self._runner else None, self._stop
                )
                holders = self._held_back = list(head.held_back_by)
            except ConnectionLost as lost:
                self._say(f"waiting for the store: {lost.message}")
                time.sleep(1)
                continue
            if head.position is not None or not holders:
                return head.position
            if not said:
                self._say(f"waiting for the first events to settle: {holders[0].in_words()}")
                said = True

    # -- what it reports

    def _say(self, text: str) -> None:
        """Report a message, with the run's id."""
        # Messages before the journal has an entry (such as waiting for the lock) have no number.
        number = f"rebuild {self._entry.rebuild}" if self._entry is not None else "rebuild"
        self._reporter.say(f"{number}: {text}")

    def _say_once(self, text: str) -> None:
        """Report a message unless it was the last one of this kind."""
        if text != self._last_message:
            self._last_message = text
            self._say(text)

    def _report(self, progress: Progress) -> None:
        if self._load is None:
            return  # what follows the load is a few events at a time
        if progress.doing:
            self._reporter.doing(progress.doing, paused=progress.paused)
            return
        done = self._done_before + progress.events
        if done < self._load.before:
            self._load = self._load.begun_again(self.store)  # a spill of it is lost
        self._reporter.progress(done, self._load.total(done, progress.position))

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        """Report what takes long and is no event that is applied."""
        self._reporter.doing(what)
        try:
            yield
        finally:
            self._reporter.doing("")

    def _facts(self) -> dict[str, Any]:
        """What hooks get to know."""
        entry, green = self._journal_entry, self._green()
        found = self._refresh().verification or {}
        return {
            **facts_of(self.target.name, self._state, entry.from_version, green),
            "rebuild": entry.rebuild,
            "events": green.events,
            "rows": green.rows,
            "differing": found.get("differing"),
        }

    def _run_on_failure(self, reason: str) -> None:
        # A failing hook must not hide the error that it was run for.
        try:
            self._hooks.run("on_failure", {**self._facts(), "reason": reason})
        except (EsopsError, psycopg.Error) as error:
            log.warning("the hook on-failure failed", error=str(error))

    # -- the journal

    def _enter(self, state: str) -> None:
        """Note in the journal that a state is reached."""
        self._session.do(lambda on: journal.enter(on, self._journal_entry.rebuild, state))
        self._state = state
        log.info("state", rebuild=self._journal_entry.rebuild, state=state)

    def _note(self, event: str, detail: Mapping[str, Any]) -> None:
        self._session.do(
            lambda on: journal.note(on, self._journal_entry.rebuild, self._state, event, detail)
        )

    def _keep_verification(self, found: Verification) -> None:
        self._session.do(
            lambda on: journal.keep_verification(on, self._journal_entry.rebuild, found.as_dict())
        )

    def _kept_verification(self) -> Verification:
        kept = self._refresh().verification
        assert kept is not None
        return Verification(**kept)

    def _concerns(self) -> list[str]:
        """What speaks against taking what was built for the whole read model."""
        blue = None if self.in_place else self._blue()
        return guards.concerns(self._green(), blue)

    def _dead_letters(self) -> int:
        """How many events became dead letters of what is built."""
        found = self._session.do(lambda on: count_dead_letters(on, self.target.name))
        return found.get(self._journal_entry.to_version, 0)

    def _too_many_dead_letters(self) -> str | None:
        """Why the version must not serve, where more of its events were skipped than is allowed."""
        return guards.dead_letters(
            self._green(), self._dead_letters(), self._options.max_dead_letters
        )

    def _refresh(self) -> journal.JournalEntry:
        """The journal's entry as it is now, with the options that this process works with."""
        entry = self._session.do(lambda on: journal.latest(on, self.target.name))
        assert entry is not None
        # A resumed rebuild may work with other options than the journal keeps.
        self._entry = replace(entry, options=self._journal_entry.options)
        return entry

    def _pause(self, reason: str) -> None:
        # Without `do`: whoever pauses because the database is gone must not wait for it here.
        try:
            journal.pause(self._session.connection, self._journal_entry, self._state, reason)
            journal.add_seconds(
                self._session.connection, self._journal_entry.rebuild, self._take_seconds()
            )
        except psycopg.Error as error:
            log.warning("the pause could not be noted in the journal", error=str(error))

    def _take_seconds(self) -> float:
        """The seconds of work since this was called last: without those in which it waited for
        whoever paused it, or for a load to go down.
        """
        now = time.monotonic()
        seconds, self._started = now - self._started, now
        waited = 0.0 if self._throttle is None else self._throttle.take_waited()
        return max(0.0, seconds - waited)

    def _outcome(self, *, findings: bool) -> Outcome:
        entry = self._refresh()
        seconds = entry.seconds
        # A finished rebuild that is only reported must not count the seconds of reporting.
        if self._worked:
            seconds = self._session.do(
                lambda on: journal.add_seconds(on, entry.rebuild, self._take_seconds())
            )
        green, blue = self._green(), None if self.in_place else self._blue()
        other = None
        if blue is not None:
            other = self._session.do(lambda on: conduct.other_code(on, blue))
        return Outcome(
            entry.rebuild,
            entry.projection,
            entry.state,
            entry.from_version,
            entry.to_version,
            green.events,
            green.rows,
            seconds,
            self._handed_over_at or green.position,
            entry.verification,
            findings,
            followed=self._will_be_followed,
            back_is_stale=blue is not None and blue.position is None and blue.checkpoint is None,
            back_is_of_two_codes=other is not None,
            warnings=() if entry.state in _DROPPED else tuple(guards.concerns(green, blue)),
            lock=None if self._lock is None else self._lock.as_dict(),
            dead_letters=0 if entry.state == journal.ABORTED else self._dead_letters(),
        )
