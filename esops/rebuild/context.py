"""What the steps of a rebuild stand on: its session and locks, its runner, the journal, the hooks,
and whom it tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Self

import psycopg
import structlog

from esops.errors import ConnectionLost, EsopsError, Refused, Stopped
from esops.events import Position
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.hooks import Hooks, told_of
from esops.rebuild.outcome import Outcome, Reporter
from esops.rebuild.plan import Options, Target
from esops.rebuild.session import Session
from esops.rebuild.verification import comparison as verify
from esops.running.runner import Progress, Reader, Runner, Work
from esops.running.throttle import Throttle
from esops.stores.base import EventStore, Holder

log = structlog.get_logger("esops.rebuild")
_SETTLE_PATIENCE = timedelta(seconds=1)


class RebuildContext:
    """A rebuild's own things. Use it as a context: it gives its locks back."""

    in_place = False

    def __init__(
        self,
        target: Target,
        store: EventStore,
        watcher: Reporter,
        stop: Callable[[], bool] = lambda: False,
        read: Reader = lambda *_: None,
    ) -> None:
        """Connect and take the projection's lock.

        `read`: see Runner. Raises Busy that says who has it.
        """
        self._read = read
        self.target, self.store, self._watcher, self._stop = target, store, watcher, stop
        self._started = time.monotonic()
        self._runner: Runner | None = None
        self._throttle: Throttle | None = None
        self._entry: journal.Entry | None = None
        self._options = Options()
        self._state = journal.PLANNED
        self._compared = False
        self._done_before = 0
        self._total: int | None = None
        self._target_position: Position | None = None
        self._taken_over = False
        self._handed: Position | None = None
        self._worked = False
        self._held_back: list[Holder] = []
        self._whole = False
        """Whether all that was committed at some moment of this process has been settled and
        applied.
        """
        self._told_short = ""
        self._session = Session(target.dsn, target.name, stop, self._say)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_runner_go()
        self._session.close()

    def _let_runner_go(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None
        if self._throttle is not None:
            self._throttle.close()

    @property
    def _hooks(self) -> Hooks:
        return Hooks(self.target.settings.hooks, self.target.directory, self._say)

    def _told(self) -> dict[str, Any]:
        entry, green = self._the_entry, self._green()
        found = self._refresh().verification or {}
        return {
            **told_of(self.target.name, self._state, entry.from_version, green),
            "rebuild": entry.rebuild,
            "events": green.events,
            "rows": green.rows,
            "differing": found.get("differing"),
        }

    def _after_switch(self) -> bool:
        """The switch stands, whatever the hook says; that it failed is told by the exit code."""
        try:
            self._hooks.run("after_switch", self._told())
        except EsopsError as error:
            self._say(f"{error.message}; the switch is made")
            self._note("hook failed", {"hook": "after-switch", "reason": error.message})
            return False
        return True

    def _on_failure(self, reason: str) -> None:
        try:
            self._hooks.run("on_failure", {**self._told(), "reason": reason})
        except (EsopsError, psycopg.Error) as error:
            log.warning("the hook on-failure failed", error=str(error))

    @property
    def _the_entry(self) -> journal.Entry:
        assert self._entry is not None
        return self._entry

    def _check_code(self) -> None:
        """A version is made by one code from its first event to its last."""
        green = self._green()
        if green.fingerprint != self.target.code:
            raise Refused(
                f"the code of {self.target.name} has changed since rebuild "
                f"{self._the_entry.rebuild} began",
                hint="Put the code back to go on, or --abort and begin again.",
            )

    def _take_runner(self) -> Runner:
        if self._runner is None:
            target, green = self.target, self._green()
            work = Work.on(
                target.name,
                green.version,
                target.definition,
                target.settings,
                self._options.batch_size,
            )
            self._done_before = green.events
            throttle = self._take_throttle()
            self._runner = Runner(
                self.store,
                target.dsn,
                work,
                stop=self._stop,
                report=self._report,
                say=self._say,
                lock_patience=timedelta(seconds=10),
                throttle=throttle,
                read=self._read,
            )
        return self._runner

    def _take_throttle(self) -> Throttle:
        if self._throttle is None:
            self._throttle = Throttle(
                self.target.dsn,
                self.target.name,
                self._options.limits,
                stop=self._stop,
                say=self._say,
            )
        return self._throttle

    def _report(self, progress: Progress) -> None:
        done = self._done_before + progress.events
        if self._target_position is not None and not self.store.capabilities.count_between:
            # An estimate of what is left gets better as more is read.
            self._total = done + self.store.count_between(progress.position, self._target_position)
        self._watcher.progress(done, self._total)

    def _head(self, patience: timedelta = _SETTLE_PATIENCE) -> Position | None:
        """The settled head; says by whom it is held back where nothing is settled yet.

        `_held_back` says who keeps it short.
        """
        said = False
        while True:
            if self._stop():
                raise Stopped("stopped while waiting for the first settled position")
            try:
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
                self._say(
                    f"nothing is settled yet: held back by {holders[0].who}, {holders[0].what}"
                )
                said = True

    def _green(self) -> Version:
        return self._session.do(
            lambda on: registry.version(on, self.target.name, self._the_entry.to_version)
        )

    def _blue(self) -> Version | None:
        number = self._the_entry.from_version
        return (
            None
            if number is None
            else self._session.do(lambda on: registry.version(on, self.target.name, number))
        )

    def _say(self, text: str) -> None:
        """Tell the operator, with the run's id."""
        number = f"rebuild {self._entry.rebuild}" if self._entry is not None else "rebuild"
        self._watcher.say(f"{number}: {text}")

    def _enter(self, state: str) -> None:
        self._session.do(lambda on: journal.enter(on, self._the_entry.rebuild, state))
        self._state = state
        log.info("state", rebuild=self._the_entry.rebuild, state=state)

    def _note(self, event: str, detail: Mapping[str, Any]) -> None:
        self._session.do(
            lambda on: journal.note(on, self._the_entry.rebuild, self._state, event, detail)
        )

    def _keep(self, found: verify.Verification) -> None:
        self._session.do(
            lambda on: journal.keep_verification(on, self._the_entry.rebuild, found.as_dict())
        )

    def _verification(self) -> verify.Verification:
        kept = self._refresh().verification
        assert kept is not None
        return verify.Verification(**kept)

    def _refresh(self) -> journal.Entry:
        entry = self._session.do(lambda on: journal.latest(on, self.target.name))
        assert entry is not None
        self._entry = replace(entry, options=self._the_entry.options)
        return entry

    def _pause(self, reason: str) -> None:
        try:
            journal.pause(self._session.connection, self._the_entry, self._state, reason)
            journal.add_seconds(
                self._session.connection, self._the_entry.rebuild, self._take_seconds()
            )
        except psycopg.Error as error:
            log.warning("the pause could not be noted", error=str(error))

    def _take_seconds(self) -> float:
        now = time.monotonic()
        seconds, self._started = now - self._started, now
        return seconds

    def _outcome(self, *, findings: bool) -> Outcome:
        entry = self._refresh()
        seconds = entry.seconds
        if self._worked:
            seconds = self._session.do(
                lambda on: journal.add_seconds(on, entry.rebuild, self._take_seconds())
            )
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
            self._handed or green.position,
            entry.verification,
            findings,
            followed=self._taken_over,
        )
