"""Switching where the application writes the read model itself, with each append."""

from __future__ import annotations

from datetime import timedelta

import psycopg

from esops.errors import Stopped
from esops.readmodel import checkpoints, registry
from esops.readmodel.registry import Version
from esops.rebuild import inline_switch, journal, standing, switch
from esops.rebuild.ignored import IgnoredValues
from esops.rebuild.phases.after_switch import AfterSwitch
from esops.running.runner import Runner

_GLANCE = timedelta(milliseconds=50)


class SwitchingInline(AfterSwitch):
    """The step after which the application writes to green."""

    def _switch_inline(self) -> None:
        """Exchange the tables, in one transaction with the journal's entry."""
        runner = self._open_runner()
        self._open_throttle().wait()
        blue, green = self._blue(), self._green()
        what = switch.Switch(self.target.names, "rename", blue, green)
        visible = self._visible()
        self._say(f"switching {what} to v{green.version}")

        def record(connection: psycopg.Connection) -> int:
            self._handed_over_at = registry.read_position(
                connection, green.projection, green.version
            )
            # From now on the application writes to it, and esops must not.
            checkpoints.release(connection, green)
            self._note_switched(connection)
            rebuild, detail = self._journal_entry.rebuild, {"code": green.fingerprint}
            journal.note(connection, rebuild, journal.SWITCHED, journal.INLINE, detail)
            if blue is not None and self._old_code_is_gone(connection, blue):
                journal.note(connection, rebuild, journal.SWITCHED, journal.HEALED)
            return rebuild

        assert blue is not None
        steps = inline_switch.Steps(
            visible,
            lambda: self._keep_near(runner),
            record,
            self._stop,
            self._say,
            IgnoredValues(blue, green, self.target.settings.verify),
        )

        def perform(connection: psycopg.Connection) -> None:
            # Active already: the switch was committed, and the answer was lost.
            if registry.version(connection, green.projection, green.version).state != "active":
                self._lock = inline_switch.perform(connection, what, steps, self._options.patience)

        self._session.do(perform)
        self._note_lock()

    def _old_code_is_gone(self, connection: psycopg.Connection, blue: Version) -> bool:
        entry = self._journal_entry
        if journal.accepted_code(connection, entry.projection, entry.to_version):
            return False
        return standing.old_code_is_gone(connection, blue, self.target.code)

    def _keep_near(self, runner: Runner) -> None:
        if self._stop():
            raise Stopped(f"stopped at position {runner.position}")
        runner.step(_GLANCE)

    def _note_lock(self) -> None:
        if self._lock is not None:
            self._note("lock", self._lock.as_dict())
