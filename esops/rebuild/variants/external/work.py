"""The steps of a rebuild where the application builds green: esops starts it, waits, verifies and
switches.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta

import psycopg

from esops.errors import Stopped
from esops.events import Position
from esops.postgres import catalog
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.readmodel.tables import count_rows
from esops.rebuild import journal, switch
from esops.rebuild.hooks import move_readers, run_program
from esops.rebuild.outcome import Outcome
from esops.rebuild.steps import Rebuild
from esops.rebuild.variants.external.checkpoint import EventCount, is_ahead, reached
from esops.rebuild.verification.comparer import (
    LOOK_EVERY_SECONDS,
    BetweenLooks,
    Comparer,
    processors_behind,
    processors_reached,
)
from esops.rebuild.verification.result import Method, not_compared, tolerated
from esops.wording import count

_PATIENCE = timedelta(minutes=10)
_START_LIMIT = timedelta(minutes=10)


class _Behind(Exception):
    """Readers may have seen events in blue that green does not contain yet."""


class ExternalRebuild(Rebuild):
    """One rebuild in which the application builds green."""

    _counted: EventCount | None = None

    def abort(self) -> Outcome:
        """End it. What the application has built belongs to the application and stays."""
        outcome = super().abort()
        self._say(
            f"{self._tables()} and the checkpoint {self._name} belong to the application and stay"
        )
        return outcome

    def _drop(self, connection: psycopg.Connection, green: Version) -> None:
        """Nothing: the tables belong to the application."""

    def _dropped(self, green: Version) -> str:
        return (
            f"{', '.join('.'.join(table) for table in green.tables.values())} belong to the "
            "application and stay"
        )

    @property
    def _name(self) -> str:
        return self._version().checkpoint or ""

    def _version(self) -> Version:
        return super()._green()

    def _green(self) -> Version:
        """The version, with the application's checkpoint as its position."""
        version = self._version()
        position = reached(self.store, version)
        # One counter for the whole rebuild: each event is counted once.
        self._counted = self._counted or EventCount(self.store)
        return replace(version, position=position, events=self._counted.up_to(position))

    def _tables(self) -> str:
        return ", ".join(".".join(table) for table in self._version().tables.values())

    def _provision(self) -> None:
        """Let the application start building. After a crash, the program may be run once more."""
        self._hooks.run("before_catch_up", self._facts())
        command = self.target.settings.start
        if command:
            facts = {**self._facts(), "checkpoint": self._name}
            run_program("start", command, self.target.directory, facts, _START_LIMIT, self._say)
        else:
            self._say(f"waiting for the application to build {self._tables()}")
        self._enter(journal.PROVISIONED)

    def _catch_up(self) -> None:
        self._enter(journal.CATCHING_UP)
        self._follow()
        self._enter(journal.FOLLOWING)

    def _follow(self) -> None:
        """Wait until the tables exist and the application's checkpoint is near the head.

        Raises Stopped where the checkpoint does not move for too long.
        """
        limit = self.target.settings.timeout or _PATIENCE
        moved, said, in_store = time.monotonic(), 0.0, EventCount(self.store)
        last: Position | None = None
        while True:
            if self._stop():
                raise Stopped(f"stopped while the application was at {last or 'no position'}")
            head, green = self._head(), self._green()
            # Any movement, however slow, shows that the application is alive.
            if green.position != last:
                moved, last = time.monotonic(), green.position
            behind = max(0, in_store.up_to(head) - green.events)
            self._reporter.progress(green.events, green.events + behind)
            missing = [
                ".".join(table) for table in green.tables.values() if not self._exists(table)
            ]
            if (
                not missing
                and (green.position is not None or head is None)
                and behind <= self._options.switch_lag
            ):
                return
            still = time.monotonic() - moved
            if still > limit.total_seconds():
                what = (
                    f"the table {missing[0]} does not exist"
                    if missing
                    else f"its checkpoint {self._name} is at {green.position or 'no position'}"
                )
                raise Stopped(
                    f"the application has made no progress for {limit.total_seconds():.0f} s and "
                    f"is {count(behind, 'event')} behind: {what}",
                    hint="Find out why, and continue with --resume.",
                )
            if still > max(said * 2, 10):  # after 10 s, 20 s, 40 s, …
                said = still
                self._say(
                    f"the application has been at {green.position or 'no position'} for "
                    f"{still:.0f} s, {count(behind, 'event')} behind"
                )
            # Each look counts events and asks the catalogue; only close to the end is it worth
            # being quick.
            time.sleep(LOOK_EVERY_SECONDS if behind or missing else 0.2)

    def _exists(self, table: tuple[str, str]) -> bool:
        return self._session.do(lambda on: catalog.has_table(on, *table))

    def _verify(self) -> bool:
        blue, green = self._blue(), self._green()
        # Green is counted all the same: zero rows would show that the application wrote elsewhere.
        if blue is None or self._options.compare == "none":
            rows = self._session.do(
                lambda on: sum(count_rows(on, table) for table in green.tables.values())
            )
            note = "nothing served before" if blue is None else None
            found = not_compared(rows, str(green.position), note)
        else:
            self._say("verifying")
            found = self._comparer().until_they_agree(
                blue, str(green.position), self._between_looks_at(blue)
            )
        self._session.do(lambda on: registry.set_rows(on, green, found.rows_green))
        between = None if blue is None else self._between_looks_at(blue)
        found = self._comparer().assertions(found, self.target.settings.verify.assertions, between)
        self._keep_verification(found)
        return tolerated(found, self._options.max_diff)

    def _comparer(self) -> Comparer:
        verify = self.target.settings.verify
        method: Method = self._options.compare or "columns"  # type: ignore[assignment]
        return Comparer(self._session, self.target.dsn, self.store, self._green(), method, verify)

    def _between_looks_at(self, blue: Version) -> BetweenLooks:
        """The application writes both versions; both processors are to read what there is now."""
        head = self._head()

        def step() -> None:
            if self._stop():
                raise Stopped("stopped while rows that differ were checked again")
            time.sleep(LOOK_EVERY_SECONDS)

        # Without a checkpoint a version is not the application's, and waits for nobody.
        names = [each.checkpoint for each in (blue, self._version()) if each.checkpoint is not None]
        reached = processors_reached(self.store, names, head)
        return BetweenLooks(step, reached, self._say, processors_behind(self.store, names, head))

    def _keep_up(self) -> None:
        time.sleep(0.2)

    def _switch(self) -> None:
        """Point the names at what the application built, once it contains all that any reader can
        have seen in blue.
        """
        settings, blue, green = self.target.settings, self._blue(), self._version()
        move = None
        if settings.switch == "hook":
            move = move_readers(self._hooks, self._facts())
        what = switch.Switch(
            self.target.names,
            settings.switch,
            blue,
            green,
            move_readers=move,
            grant_select_to=settings.grant_select_to,
        )
        self._say(f"switching {what} to {self._tables()}")

        def record(connection: psycopg.Connection) -> None:
            # The names are locked by now, so readers see nothing in blue that its checkpoint had
            # not reached before this look. A program that moves them comes after it.
            if blue is not None and not is_ahead(self.store, blue, green):
                raise _Behind
            self._note_switched(connection)

        def perform(connection: psycopg.Connection) -> None:
            if registry.version(connection, green.projection, green.version).state != "active":
                switch.perform(
                    connection,
                    what,
                    bring_to=lambda _: None,
                    record=record,
                    stop=self._stop,
                    say=self._say,
                    patience=self._options.patience,
                )

        while True:
            try:
                return self._session.do(perform)
            except _Behind:
                self._await_ahead(blue, green)

    def _await_ahead(self, blue: Version | None, green: Version) -> None:
        deadline = time.monotonic() + (self.target.settings.timeout or _PATIENCE).total_seconds()
        while blue is not None and not is_ahead(self.store, blue, green):
            if self._stop() or time.monotonic() > deadline:
                raise Stopped(
                    f"the checkpoint {self._name} is at "
                    f"{reached(self.store, green) or 'no position'}, behind {blue.checkpoint}"
                )
            time.sleep(0.05)
