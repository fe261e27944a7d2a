"""What is looked at before the first step, each time that a rebuild begins or is resumed: by then
the code, the store or what serves may be another than when it was planned.
"""

from __future__ import annotations

from functools import partial

import psycopg

from esops.errors import Refused
from esops.postgres import catalog
from esops.projections.fingerprint import is_earlier
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import guards, hand_over, journal
from esops.rebuild.context import RebuildContext
from esops.rebuild.outcome import rows_of_old_code
from esops.rebuild.plan_notes import of_columns


class Beginning(RebuildContext):
    """What may refuse a rebuild before it does anything."""

    def _check_code(self) -> None:
        """Raises Refused where the code has changed: a version is made by one code from its first
        event to its last.
        """
        green, code = self._green(), self.target.code
        if is_earlier(green.fingerprint) and code.made(green.fingerprint):
            self._session.do(lambda on: registry.note_code(on, green, code.fingerprint))
        elif not code.made(green.fingerprint):
            self._accept_code(green)

    def _accept_code(self, made: Version, *, by_ranges: bool = False) -> None:
        """Note that the operator vouches for the code of today, though another one made the rows of
        a version so far. Raises Refused where nobody does.

        `by_ranges`: there is no position up to which the old code made the rows, since all those of
        ranges that are done are its own.
        """
        if not self._options.accept_code:
            raise Refused(
                f"the code of {self.target.name} has changed since rebuild "
                f"{self._journal_entry.rebuild} began",
                hint=self._code_hint(),
            )
        rebuild, code = self._journal_entry.rebuild, self.target.code.fingerprint
        at = None if made.position is None or by_ranges else str(made.position)

        def do(connection: psycopg.Connection) -> None:
            with connection.transaction():
                registry.note_code(connection, made, code)
                detail = {"position": at, "before": made.fingerprint, "now": code}
                journal.note(connection, rebuild, self._state, "code accepted", detail)

        self._session.do(do)
        self._say(f"continues with other code (--accept-code): {rows_of_old_code(at)}")

    def _check_log(self) -> None:
        """Raises AnotherLog where the store was restored to an earlier time, or replaced, since
        the versions were made.
        """
        green, blue = self._green(), self._blue()
        for version in (green,) if blue is None else (green, blue):
            self._session.do(partial(guards.check_log, store=self.store, version=version))

    def _code_hint(self) -> str:
        command = self._command(in_place=self.in_place)
        return (
            "Restore the old code and resume; or drop the rebuild with --abort and start again. "
            f"If the rows so far are right as they are: {command} --resume --accept-code"
        )

    def _check_serving(self) -> None:
        """Raises Refused where another version serves than when the rebuild began."""
        entry, name = self._journal_entry, self.target.name
        serving = self._session.do(lambda on: registry.active(on, name))
        number = None if serving is None else serving.version
        # Green serves where the switch is done, and the answer was lost.
        if number in (entry.from_version, entry.to_version):
            return
        before = "no version" if entry.from_version is None else f"v{entry.from_version}"
        back = ""
        if entry.from_version is not None:
            back = (
                f"Go back with `esops projection switch {name} --to {entry.from_version}` and "
                "resume. Or "
            )
        command = self._command(in_place=self.in_place)
        again = f"drop this rebuild with `{command} --abort` and start it again."
        raise Refused(
            f"{before} of {name} served when rebuild {entry.rebuild} began, and "
            f"{'no version' if number is None else f'v{number}'} serves now",
            hint=back + again if back else again.capitalize(),
        )

    def _announce(self) -> None:
        """Say that it continues, once all that could refuse that has been looked at."""
        if self._announcement:
            self._say(self._announcement)
            self._announcement = ""

    def _check_inline(self) -> None:
        """Raises Refused where the application writes what the rebuild would write to, or could not
        take over what it switches to.
        """

        def check(on: psycopg.Connection) -> None:
            guards.check_inline(on, self.store, self.target, ends_with_switch=True)
            # The hand-over was done with the switch.
            if self._state != journal.SWITCHED:
                hand_over.check(self.target.application, self.store, on)

        self._session.do(check)

    def _check_verify(self) -> None:
        """Raises UsageError as the plan does, where a rebuild is resumed with other settings."""
        if self._state not in {journal.CATCHING_UP, journal.FOLLOWING}:
            return
        tables = self._session.do(
            lambda on: {
                name: table
                for name, physical in self._green().tables.items()
                if (table := catalog.find_table(on, *physical)) is not None
            }
        )
        if tables:
            of_columns({}, tables, self.target.settings.verify)
