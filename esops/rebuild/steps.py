"""A rebuild as a story: provision, catch up, follow, verify, switch.

Each step can be done again: it looks at what is there and does what is missing. The journal holds
the state before and after, so whoever finds a rebuild unfinished can resume it. While it works, a
rebuild holds its projection's lock and green's. Nothing touches blue except the comparison's reads
and the one transaction of the switch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psycopg
import structlog

from esops.errors import ConnectionLost, EsopsError, PoisonEvent, Refused, Stopped, UsageError
from esops.postgres.connection import translated
from esops.readmodel import migrations, registry, spills
from esops.readmodel.registry import Version
from esops.readmodel.shards import shards_of
from esops.readmodel.tables import drop_tables
from esops.rebuild import journal, made_of
from esops.rebuild.blue import check_begun
from esops.rebuild.ended import check_still_true
from esops.rebuild.options import Options
from esops.rebuild.outcome import Outcome
from esops.rebuild.phases.switching import Switching
from esops.rebuild.plan import RebuildPlan
from esops.rebuild.short_tries import Tries, in_short_tries, to_drop
from esops.running import control
from esops.running.spill.directory import remove_of

log = structlog.get_logger("esops.rebuild")


class Rebuild(Switching):
    """One rebuild of one projection, at work."""

    # -- start, resume, abort

    def begin(self, plan: RebuildPlan, options: Options) -> Outcome:
        """Carry out a plan from its start. Raises Refused if another rebuild is unfinished."""
        return self.run_steps(self.enter(plan, options))

    def enter(
        self, plan: RebuildPlan, options: Options, group: str | None = None
    ) -> journal.JournalEntry:
        """Enter a plan into the journal.

        `group` is shared by rebuilds that are started together. Raises Refused if another rebuild
        is unfinished.
        """
        with translated():
            self._prepare()
            from_version = plan.source.version if plan.source else None
            with self._session.connection.transaction():
                # The adopted table keeps its name until the switch.
                if plan.adopt and plan.source is not None:
                    registry.insert(self._session.connection, plan.source)
                    registry.set_active(
                        self._session.connection, self.target.name, plan.source.version, None
                    )
                entry = journal.begin(
                    self._session.connection,
                    self.target.name,
                    from_version,
                    plan.to_version,
                    {
                        **options.as_dict(),
                        **plan.measured,
                        "compare": plan.compare,
                        # As planned, so that a resumed rebuild creates what the operator saw.
                        "create": [*plan.create, *plan.drop_now],
                        "group": group,
                    },
                )
                made_of.note(self._session.connection, entry.rebuild, self.target, plan.events)
                registry.insert(self._session.connection, plan.version())
                if from_version is not None and plan.serving_has:
                    journal.keep_composition(
                        self._session.connection,
                        entry.rebuild,
                        (from_version, plan.to_version),
                        plan.serving_has,
                    )
        return entry

    def latest(self) -> journal.JournalEntry | None:
        """The projection's newest rebuild, finished or not."""
        with translated():
            return journal.latest(self._session.connection, self.target.name)

    def resume(self, options: Mapping[str, Any]) -> Outcome:
        """Continue where the last process stopped or died, with these options changed.

        A finished rebuild is only reported, and its last hook run where that is left to do. Raises
        UsageError where none was ever started.
        """
        with translated():
            entry = journal.latest(self._session.connection, self.target.name)
            if entry is None:
                raise UsageError(
                    f"{self.target.name} has no rebuild to resume", hint="Leave out --resume."
                )
            # Of an unfinished rebuild, and of one that switched just before it could say so.
            if "retire_after" in options and entry.state != journal.ROLLED_BACK:
                journal.retire_after(
                    self._session.connection, entry.rebuild, options["retire_after"]
                )
            # So that a script may call --resume until it succeeds.
            if entry.finished_at is not None:
                check_still_true(self._session.connection, entry)
                return self._reported(entry)
            self._check_mode(entry, "--resume")
            connection = self._session.connection
            green = registry.version(connection, self.target.name, entry.to_version)
            check_begun(connection, self.target, green)
            entry = replace(
                journal.reopen(self._session.connection, entry),
                # That the projector has stopped is said of a moment, and so is said again.
                options={**entry.options, "processor_stopped": False, **options},
            )
            made_of.note_resumed(self._session.connection, entry, self.target)
        return self.run_steps(entry)

    def _reported(self, entry: journal.JournalEntry) -> Outcome:
        """What a finished rebuild came to, after the hook that it may still owe."""
        self._entry = entry
        self._say(f"ended at {entry.finished_at:%Y-%m-%d %H:%M:%S} UTC; nothing was left to do")
        self._will_be_followed = self._session.followed(self._green())
        return self._outcome(findings=not self._run_owed_hook())

    def abort(self) -> Outcome:
        """End an unfinished rebuild and drop green. Raises UsageError where there is none."""
        with translated():
            entry = self._unfinished()
            connection = self._session.connection
            green = registry.version(connection, self.target.name, entry.to_version)
            left = spills.spills_of(connection, green)

            def end() -> None:
                # One transaction: tables that are dropped must not be resumed. The tables come
                # last, for others wait from there on.
                was = ("building",)
                registry.set_state(connection, green.projection, green.version, "aborted", was=was)
                journal.enter(connection, entry.rebuild, journal.ABORTED, finished=True)
                self._drop(connection, green)

            in_short_tries(connection, end, self._dropping(green))
            for each in left:
                remove_of(each.directory, each.spill)
            self._entry = journal.latest(self._session.connection, self.target.name)
        return self._outcome(findings=False)

    def check_unfinished(self) -> None:
        """Raises UsageError where there is no rebuild to abort, or one of the other mode."""
        self._unfinished()

    def check_none_unfinished(self) -> None:
        """Raises Refused if another rebuild of the projection is unfinished."""
        entry = self.latest()
        if entry is not None and entry.finished_at is None:
            command = self._command(in_place=bool(entry.options.get("in_place")))
            raise Refused(
                f"rebuild {entry.rebuild} of {self.target.name} is not finished: {entry.state}"
                + (f" ({entry.reason})" if entry.reason else ""),
                hint=f"Continue it with: {command} --resume"
                if entry.options.get("in_place")
                else f"Continue it with: {command} --resume. Or drop it with: {command} --abort",
            )

    def _prepare(self) -> None:
        """What comes before anything is entered.

        Raises Refused if another rebuild is unfinished.
        """
        self.check_none_unfinished()
        migrations.install(self._session.connection)
        if self.store.memory is not None:
            # What came late so far is written down before there is a new version: that reads it.
            self.store.memory.keep()
            self.store.memory.late()
        # A "switch now" that was meant for an earlier rebuild must not hurry this one.
        control.request(self._session.connection, self.target.name, switch_now=False)

    def _unfinished(self) -> journal.JournalEntry:
        entry = journal.latest(self._session.connection, self.target.name)
        if entry is None or entry.finished_at is not None:
            raise UsageError(f"{self.target.name} has no unfinished rebuild to abort")
        self._check_mode(entry, "--abort")
        return entry

    def _check_mode(self, entry: journal.JournalEntry, option: str) -> None:
        """Raises UsageError where a rebuild was begun in place and is to be continued blue-green,
        or the other way round.
        """
        in_place = bool(entry.options.get("in_place"))
        if in_place != self.in_place:
            mode = "in place, without --blue-green" if in_place else "with --blue-green"
            raise UsageError(
                f"rebuild {entry.rebuild} of {self.target.name} was begun {mode}",
                hint=f"Run: {self._command(in_place=in_place)} {option}",
            )

    # -- the story

    def run_steps(self, entry: journal.JournalEntry) -> Outcome:
        """Do what is left to do of a rebuild that is in the journal.

        Raises Stopped where it is paused, and whatever else stops it.
        """
        self._entry = entry
        self._options = Options.from_journal(dict(entry.options))
        what = f"{'rebuilding' if self.in_place else 'building'} v{entry.to_version}"
        if entry.state == journal.PLANNED:
            self._say(f"starts {what}")
        else:
            limited = f", limited to {limits}" if (limits := str(self._options.limits)) else ""
            self._announcement = f"continues {what}, from state {entry.state}{limited}"
        log.info(
            "rebuild",
            rebuild=entry.rebuild,
            projection=entry.projection,
            to_version=entry.to_version,
            state=entry.state,
        )
        self._state = entry.state
        self._worked = True
        while True:
            try:
                return self._outcome(findings=not self._story())
            except Stopped as stopped:
                self._pause("asked to stop" if self._stop() else stopped.message)
                if not self._stop():
                    self._run_on_failure(stopped.message)
                raise Stopped(
                    f"rebuild {entry.rebuild} of {self.target.name} is paused: {stopped.message}",
                    hint=f"Continue with: {self._command(in_place=self.in_place)} --resume",
                ) from None
            except ConnectionLost as lost:
                # Each step can be done again: wait for the database, and start again from the state
                # that was reached.
                self._say(f"waiting for the database: {lost.message}")
                self._close_runner()
                time.sleep(1)
                self._session.do(lambda _: None)
            except EsopsError as error:
                # Even where --resume cannot help: --abort needs an unfinished rebuild.
                self._pause(error.message)
                self._run_on_failure(error.message)
                if isinstance(error, PoisonEvent):
                    raise PoisonEvent(error.message, hint=self._poison_hint()) from error
                raise

    def _poison_hint(self) -> str:
        # Fixed code resumes only where the operator vouches for the rows of the code before.
        command = self._command(in_place=self.in_place)
        green = self._green()
        # What several processes have applied counts for the version only when all are at the end.
        shards = self._session.do(lambda on: shards_of(on, green))
        if not green.events and not any(each.events for each in shards):
            return (
                f"No event was applied before it. Fix the projection, drop this rebuild with "
                f"`{command} --abort`, and start it again."
            )
        start_again = (
            "Fix the projection. If the rows so far are right as they are, continue with "
            f"`{command} --resume --accept-code`. If not, drop this rebuild with "
            f"`{command} --abort`, and start it again."
        )
        if self.target.settings.kind == "sql" or self.target.settings.on_error == "dead-letter":
            return start_again
        return (
            f'{start_again} Or set on_error = "dead-letter" in [projections.{self.target.name}] '
            f"and run `{command} --resume`."
        )

    def _story(self) -> bool:
        """All steps from the state that is reached; False where the verification found more than
        is allowed, or the hook after the switch failed.
        """
        self._check_code()
        self._check_log()
        if self._options.ends_with_switch:
            self._check_inline()
            self._check_serving()
        self._check_verify()
        self._announce()
        if self._state == journal.PLANNED:
            self._provision()
        if self._state in {journal.PROVISIONED, journal.CATCHING_UP}:
            self._catch_up()
        if self._state == journal.FOLLOWING:
            self._follow()
            fine, concerns = self._verify(), self._concerns()
            reason = "" if self._options.accept_fewer else "; ".join(concerns)
            if not fine:
                reason = "the verification found differences"
            if self._options.ends_with_switch:
                reason = reason or self._too_many_dead_letters() or ""
            if reason:
                return self._stop_for(reason)
            # Also of a version that a later switch is to serve: nobody could find it out then.
            if not self._options.test_only:
                self._check_shortened()
            self._enter(journal.VERIFIED)
        if self._options.test_only:
            self._end_test()
        elif self._options.switch:
            self._await_switch_now()
            self._follow()
            self._hooks.run("before_switch", self._facts())
            self._follow()  # the hook may have taken its time
            # Some may have come since the verification.
            self._check_shortened()
            if reason := self._too_many_dead_letters() or "":
                self._state = journal.FOLLOWING  # a replay changes rows: they are verified again
                return self._stop_for(reason)
            self._switch()
            self._state = journal.SWITCHED
            return self._run_after_switch()
        else:
            self._stand_by()
        return True

    def _check_shortened(self) -> None:
        """Raises Refused where streams have lost their first events since the rebuild began."""
        self._lost.check(self._options)

    def _stop_for(self, reason: str) -> bool:
        """Pause before the switch, since something speaks against it."""
        self._pause(reason)
        self._run_on_failure(reason)
        return False

    # -- other ends than the switch

    def _end_test(self) -> None:
        """Drop green, which was built and verified for a test; blue serves as before."""
        # The runner's open statements would hold locks on the tables that are dropped.
        self._close_runner()
        green = self._green()

        def end(connection: psycopg.Connection) -> None:
            # Or it is done, and the answer was lost.
            was = ("building", "aborted")
            registry.set_state(connection, green.projection, green.version, "aborted", was=was)
            journal.enter(connection, self._journal_entry.rebuild, journal.TESTED, finished=True)
            self._drop(connection, green)  # last, for others wait from there on

        command = self._command(in_place=self.in_place)
        tries = replace(
            self._dropping(green),
            hint=f"It was tested, and is still there. Once that has ended, drop it with: "
            f"{command} --resume.",
            stop=self._stop,
        )
        self._session.do(lambda on: in_short_tries(on, lambda: end(on), tries))
        self._say(f"tested; {self._dropped(green)}")

    def _drop(self, connection: psycopg.Connection, green: Version) -> None:
        """Drop what was built."""
        drop_tables(connection, green)

    def _dropping(self, green: Version) -> Tries:
        names = ", ".join(physical for _, physical in green.tables.values())
        return Tries(f"dropping {names}", to_drop(green), say=self._say)

    def _dropped(self, green: Version) -> str:
        """What became of green, in words."""
        return f"{', '.join(physical for _, physical in green.tables.values())} dropped again"

    def _stand_by(self) -> None:
        """Leave green as a version that can be switched to."""
        green = self._green()

        def end(connection: psycopg.Connection) -> None:
            with connection.transaction():
                was = ("building", "standby")
                registry.set_state(connection, green.projection, green.version, "standby", was=was)
                journal.enter(
                    connection, self._journal_entry.rebuild, journal.VERIFIED, finished=True
                )

        self._session.do(end)
