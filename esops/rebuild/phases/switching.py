"""Switching: point the name at green, and where the application keeps the read model fresh, let it
take over.
"""

from __future__ import annotations

import time
from datetime import timedelta

import psycopg

from esops.errors import Refused
from esops.events import Position
from esops.readmodel import checkpoints, registry
from esops.readmodel.registry import Version
from esops.rebuild import switch
from esops.rebuild.hooks import move_readers
from esops.rebuild.phases.switching_inline import SwitchingInline
from esops.stores.base import require
from esops.stores.parts import SqlAccess

_STILLNESS = timedelta(seconds=60)
"""How long the switch waits for the application's projector to stop."""
_BETWEEN_LOOKS = timedelta(seconds=1)


class Switching(SwitchingInline):
    """The step after which readers see green."""

    _row: str | None = None
    """The row of the application's projector, as it was when that stood still."""

    def _switch(self) -> None:
        """Point the names at green, with green at blue's position or past it, in one transaction
        with the journal's entry.
        """
        if self.target.settings.live == "inline":
            self._switch_inline()
            return
        runner = self._open_runner()
        self._open_throttle().wait()
        settings, blue, green = self.target.settings, self._blue(), self._green()
        self._will_be_followed = blue is not None and self._session.followed(blue)
        move = None
        if settings.switch == "hook":
            move = move_readers(self._hooks, self._facts())
        roles = settings.grant_select_to
        what = switch.Switch(
            self.target.names,
            settings.switch,
            blue,
            green,
            move_readers=move,
            grant_select_to=roles,
            apart=blue is not None and self._apart(blue),
        )
        self._say(f"switching {what} to v{green.version}")
        # The switch itself would refuse as well, but only after readers were locked out.
        if settings.live == "app":
            self._await_stillness()

        def record(connection: psycopg.Connection) -> None:
            if settings.live == "app":
                self._hand_over(connection, green)
            self._note_switched(connection)

        def bring_to(position: Position) -> None:
            # Blue moved while the switch waited for its lock.
            if runner.position is None or runner.position < position:
                runner.run_until(position)

        def perform(connection: psycopg.Connection) -> None:
            # Active already: the switch was committed, and the answer was lost.
            if registry.version(connection, green.projection, green.version).state != "active":
                switch.perform(
                    connection,
                    what,
                    bring_to=bring_to,
                    record=record,
                    stop=self._stop,
                    say=self._say,
                    patience=self._options.patience,
                )

        self._session.do(perform)

    def _sql(self) -> SqlAccess:
        return require(self.store, self.store.sql, "checkpoints to set")

    def _await_stillness(self) -> None:
        """Wait up to a minute until the application's projector has stopped.

        Tries what the switch will do, and rolls it back: the store knows best what stands in the
        way. And looks at the projector's row twice: one that moves is at work, whatever the row or
        the operator says. Raises Refused.
        """
        name, deadline, said = (
            self.target.settings.checkpoint,
            time.monotonic() + _STILLNESS.total_seconds(),
            False,
        )
        runner = self._open_runner()
        assert name is not None
        assert runner.position is not None
        at = runner.position

        def attempt(connection: psycopg.Connection) -> None:
            with connection.transaction(force_rollback=True):
                stopped = self._options.processor_stopped
                self._sql().set_checkpoint(connection, name, at, stopped=stopped)

        if self._options.processor_stopped:
            signs = self._sql().signs_of_life(name)
            but = f" Against it speaks: {signs}." if signs else ""
            self._say(
                f"taken on your word (--processor-stopped): no process of {name} is left.{but}"
            )
        while True:
            try:
                self._row = self._session.do(self._look)
                self._session.do(attempt)
                time.sleep(_BETWEEN_LOOKS.total_seconds())
                return self._session.do(self._check_still)
            except Refused as refused:
                if self._stop() or time.monotonic() >= deadline:
                    raise
                if not said:
                    self._say(
                        "waiting up to a minute for the application's projector to stop: "
                        f"{refused.message}"
                    )
                    said = True
                # Green keeps up in the meantime, so that little is left for the switch.
                time.sleep(1)
                runner.step(timedelta(milliseconds=50))
                at = runner.position

    def _look(self, connection: psycopg.Connection) -> str | None:
        name = self.target.settings.checkpoint
        return None if name is None else self._sql().row_of(connection, name)

    def _check_still(self, connection: psycopg.Connection) -> None:
        """Raises Refused where the projector's row has moved since it was looked at."""
        if self._look(connection) != self._row:
            raise Refused(
                f"the application's processor {self.target.settings.checkpoint} is at work: its "
                "row has moved while esops looked",
                hint="End its process, and continue with --resume. Nothing overrules this, not "
                "even --processor-stopped.",
            )

    def _hand_over(self, connection: psycopg.Connection, green: Version) -> None:
        """Set the application's checkpoint to green's position, in the switch's transaction, so
        that the application continues where green is. Raises Refused.
        """
        name = self.target.settings.checkpoint
        position = registry.read_position(connection, green.projection, green.version)
        if name is None or position is None:
            raise Refused(
                "the application cannot take over: green or the application has no checkpoint"
            )
        self._check_still(connection)
        stopped = self._options.processor_stopped
        where = self._sql().set_checkpoint(connection, name, position, stopped=stopped)
        # From now on the application moves the checkpoint, and esops must not follow the version.
        checkpoints.release(connection, green)
        self._handed_over_at = position
        self._say(f"handed over to the application: {where}")
