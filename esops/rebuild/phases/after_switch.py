"""The hook after the switch, which is owed from the switch's transaction on until it ends well."""

from __future__ import annotations

import psycopg

from esops.errors import EsopsError
from esops.rebuild import journal
from esops.rebuild.phases.verifying import Verifying


class AfterSwitch(Verifying):
    """What a switch notes, and the step that follows it."""

    def _note_switched(self, connection: psycopg.Connection) -> None:
        """Note the switch in its own transaction, and that its hook has yet to be run: whoever is
        killed right after it leaves the hook to --resume.
        """
        rebuild = self._journal_entry.rebuild
        journal.enter(connection, rebuild, journal.SWITCHED, finished=True)
        if self.target.settings.hooks.after_switch:
            journal.note(connection, rebuild, journal.SWITCHED, journal.HOOK_OWED)

    def _run_owed_hook(self) -> bool:
        """Of a finished rebuild: run the hook that was not run to its end; returns as below."""
        entry = self._journal_entry
        if not self._session.do(lambda on: journal.owes_hook(on, entry.rebuild)):
            return True
        self._state = journal.SWITCHED
        return self._run_after_switch()

    def _run_after_switch(self) -> bool:
        """Run the hook after the switch; returns whether it succeeded.

        The switch is committed, so a failing hook does not undo it; it shows in the exit code.
        """
        try:
            self._hooks.run("after_switch", self._facts())
        except EsopsError as error:
            command = self._command(in_place=False)
            self._say(
                f"{error.message}. The switch itself is done; `{command} --resume` runs the hook "
                "again"
            )
            self._note("hook failed", {"hook": "after-switch", "reason": error.message})
            return False
        self._note(journal.HOOK_ENDED, {})
        return True
