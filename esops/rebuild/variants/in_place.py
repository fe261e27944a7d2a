"""A rebuild in place: the tables that serve are emptied and filled again, for read models that are
too large to exist twice. Or, in ranges, their rows are replaced part by part.

Readers see it happen, which is why it has to be asked for. Emptying the tables and resetting the
checkpoint are one transaction, so that a rebuild that dies at any moment continues where its
checkpoint is. Keys and indexes stay: readers need them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from esops.errors import Busy, Refused
from esops.postgres import catalog, publications
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified, translated
from esops.projections import kinds
from esops.readmodel import checkpoints, locks, registry
from esops.readmodel.shards import shards_of
from esops.rebuild import guards, journal, made_of
from esops.rebuild.abortable import changed_nothing
from esops.rebuild.blue import adopted, versions_and_tables
from esops.rebuild.options import SETTLING, Options
from esops.rebuild.outcome import Outcome
from esops.rebuild.short_tries import Tries, in_short_tries, of_tables
from esops.rebuild.steps import Rebuild
from esops.rebuild.variants.in_place_plan import check_ranges
from esops.rebuild.variants.ranges import Ranges
from esops.rebuild.verification.result import not_compared
from esops.running.work import Progress, RunControl
from esops.wording import count


class InPlaceRebuild(Rebuild):
    """One rebuild of the version that serves."""

    in_place = True

    def begin_in_place(self, options: Options) -> Outcome:
        """Empty what serves and fill it again.

        Raises Refused or Busy where that cannot be done safely.
        """
        connection = self._session.connection
        with translated():
            if self.target.settings.live != "esops":
                raise Refused(
                    f"the application keeps {self.target.name} fresh (live = "
                    f'"{self.target.settings.live}"), so both would write to the same tables',
                    hint="Rebuild with --blue-green.",
                )
            self._prepare()
            with connection.transaction():
                version = self._serving(connection)
                # In the transaction that begins: what is checked must still be so when it is noted.
                tables = self._check(connection, version)
                if options.ranges is not None:
                    check_ranges(self.target, self.store, tables)
                    schema, _ = version.table
                    publications.check_new_tables(connection, schema, "the table for the ranges")
                else:
                    self._check_emptying(connection, version)
                # The number of the version in which ranges are built; nobody ever reads it.
                numbers = [each.version for each in registry.versions(connection, self.target.name)]
                kept = {
                    **options.as_dict(),
                    "in_place": True,
                    "create": [],
                    "scratch": max(numbers) + 1,
                }
                entry = journal.begin(
                    connection, self.target.name, version.version, version.version, kept
                )
                made_of.note(connection, entry.rebuild, self.target, None)
        return self.run_steps(entry)

    def _serving(self, connection: psycopg.Connection) -> registry.Version:
        """The version that serves; a table that esops does not know yet becomes version 1 under its
        own name.
        """
        version = registry.active(connection, self.target.name)
        if version is not None:
            return version
        _, current = versions_and_tables(connection, self.target)
        if not current:
            raise Refused(
                f"{self.target.name} has never been built",
                hint=f"Build it with: esops rebuild {self.target.name} --blue-green",
            )
        # A row count of a table that is about to be emptied would only mislead.
        version = replace(adopted(connection, self.target, current), rows=0)
        registry.insert(connection, version)
        registry.set_active(connection, self.target.name, version.version, None)
        return version

    def _check(self, connection: psycopg.Connection, version: registry.Version) -> list[Table]:
        """The tables. Raises Busy or Refused where they cannot be changed in place."""
        holder = locks.holder(connection, locks.version_lock(version.projection, version.version))
        if holder is not None:
            raise Busy(
                f"{version.projection} v{version.version} is kept fresh by {holder}",
                hint="Stop `esops run` until the rebuild in place is done, or rebuild with "
                "--blue-green.",
            )
        found = [catalog.find_table(connection, *physical) for physical in version.tables.values()]
        tables = [table for table in found if table is not None]
        if len(tables) < len(found):
            raise Refused(
                f"a table of v{version.version}, which should serve, does not exist any more",
                hint="Rebuild with --blue-green.",
            )
        kinds.check(self.target.definition, tables, conjoined=self.store.capabilities.tenants)
        kinds.of_one_database(self.target.definition, self.store, connection)
        return tables

    def _check_emptying(self, connection: psycopg.Connection, version: registry.Version) -> None:
        found = [catalog.find_table(connection, *physical) for physical in version.tables.values()]
        oids = [
            each
            for table in found
            if table is not None
            for each in catalog.relation_tree(connection, table.oid)
        ]
        names = " and ".join(".".join(physical) for physical in version.tables.values())
        publications.check_truncate(connection, oids, names)

    def _story(self) -> bool:
        self._check_log()
        self._check_inline()
        if self._state == journal.PLANNED:
            self._check_enough_events()
            self._hooks.run("before_catch_up", self._facts())
            if self._options.ranges is None:
                self._empty()
            else:
                self._start_ranges(self._options.ranges)
        self._check_code()
        self._announce()
        self._enter(journal.CATCHING_UP)
        if self._options.ranges is not None:
            self._ranges().fill(self._check_shortened)
        # From here on the version has its checkpoint again and catches up as any other.
        runner = self._open_runner()
        head = self._head(SETTLING)
        if head is not None and (runner.position is None or runner.position < head):
            self._say(f"filling up to position {head}")
            self._load_up_to(runner, head)
        self._enter(journal.FOLLOWING)
        self._follow()
        self._build(runner)
        self._check_shortened()
        found = self._comparer().assertions(
            not_compared(self._green().rows or 0, str(runner.position), "rebuilt in place"),
            self.target.settings.verify.assertions,
        )
        self._keep_verification(found)
        concerns = [] if self._options.accept_fewer else self._concerns()
        reason = "assertions failed" if found.failed_assertions else "; ".join(concerns)
        reason = reason or self._too_many_dead_letters() or ""
        if reason:
            self._pause(reason)
            self._run_on_failure(reason)
            return False
        self._session.do(
            lambda on: journal.enter(
                on, self._journal_entry.rebuild, journal.REBUILT, finished=True
            )
        )
        return True

    def _check_enough_events(self) -> None:
        """Once more with the lock held: the plan may be old, and what it saw may be gone."""
        if not self._options.accept_fewer:
            head, version = self._head(SETTLING), self._green()
            self._session.do(
                lambda on: guards.check_enough_events(
                    self.target, self.store, head, on, version.tables, version.events
                )
            )

    def _empty(self) -> None:
        """Empty the tables and reset the checkpoint in one transaction, which waits for its lock
        without holding up readers.
        """
        version = self._green()
        names = sql.SQL(", ").join(qualified(*physical) for physical in version.tables.values())
        self._say(
            f"emptying {', '.join('.'.join(physical) for physical in version.tables.values())}"
        )

        def do(connection: psycopg.Connection) -> None:
            # The checkpoint's row first, as everybody does: a runner cannot commit in between.
            registry.lock_checkpoint(connection, version.projection, version.version)
            connection.execute(sql.SQL("TRUNCATE {}").format(names))
            checkpoints.reset(connection, version, self.target.code.fingerprint)
            journal.enter(connection, self._journal_entry.rebuild, journal.PROVISIONED)

        tries = Tries(
            "emptying the tables",
            of_tables(list(version.tables.values())),
            hint=f"Nothing was changed. Once it has ended, run: {self._command(in_place=True)} "
            "--resume.",
            stop=self._stop,
            say=self._say,
        )
        try:
            self._session.do(lambda on: in_short_tries(on, lambda: do(on), tries))
        except psycopg.errors.FeatureNotSupported as error:
            raise Refused(
                f"the tables cannot be emptied: {error.diag.message_primary} "
                f"({error.diag.message_detail})"
            ) from None
        self._state = journal.PROVISIONED

    def _start_ranges(self, of: int) -> None:
        """Start replacing ranges, all up to the same position."""
        head = self._head(SETTLING)
        if head is None:
            raise Refused(
                f"store {self.store.name} has no events, so there is nothing to rebuild from"
            )
        self._say(f"replacing the rows in {count(of, 'range')}, up to position {head}")

        def record(connection: psycopg.Connection, before: Mapping[str, Any]) -> None:
            journal.keep_before(connection, self._journal_entry.rebuild, before)
            journal.enter(connection, self._journal_entry.rebuild, journal.PROVISIONED)

        self._ranges().begin(of, head, record)
        self._state = journal.PROVISIONED

    def _ranges(self) -> Ranges:
        version = self._green()
        # The ranges hold the position they go up to; without any, all of them are done.
        found = self._session.do(lambda on: shards_of(on, version))
        total = self.store.counts.between(None, found[0].until) if found else None
        return Ranges(
            self._session,
            self.target,
            self.store,
            version,
            self._journal_entry.options["scratch"],
            self._options.batch_size,
            RunControl(
                stop=self._stop,
                say=self._say,
                report=lambda progress: self._report_ranges(progress, total),
                throttle=self._open_throttle(),
            ),
        )

    def _report_ranges(self, progress: Progress, total: int | None) -> None:
        if progress.doing:
            self._reporter.doing(progress.doing, paused=progress.paused)
        else:
            self._reporter.progress(progress.events, total)

    def _check_code(self) -> None:
        """As in every rebuild, if it goes by ranges. While those are replaced, the code is noted
        with the version in which they are built, which nobody reads. Without ranges, all rows are
        made by this rebuild, so that with other code it begins again.
        """
        if self._options.ranges is None:
            version = self._green()
            if not self.target.code.made(version.fingerprint):
                if self._options.accept_code:
                    self._accept_code(version)
                    return
                self._say("the code has changed since this rebuild began, so it begins again")
                self._empty()
            return
        scratch = self._journal_entry.options.get("scratch")
        known = self._session.do(lambda on: registry.versions(on, self.target.name))
        made = next((each for each in known if each.version == scratch), None)
        if made is None:
            super()._check_code()
        elif not self.target.code.made(made.fingerprint):
            self._accept_code(made, by_ranges=True)

    def _code_hint(self) -> str:
        return (
            "Restore the old code and resume: some rows are already made by it. If they are right "
            f"as they are: {self._command(in_place=True)} --resume --accept-code"
            f"{self._or_abort()}"
        )

    def _or_abort(self) -> str:
        """More of a hint, as long as no row has changed."""
        # As the journal has it now: what was set aside is noted there.
        entry = self._session.do(lambda on: journal.latest(on, self.target.name))
        if entry is None or not self._session.do(lambda on: changed_nothing(on, entry)):
            return ""
        return f" No row is changed yet: drop it with {self._command(in_place=True)} --abort"

    def _poison_hint(self) -> str:
        command = self._command(in_place=True)
        if self._options.ranges is not None:
            return (
                "Fix the projection. If the rows so far are right as they are, continue with "
                f'`{command} --resume --accept-code`. Or set on_error = "dead-letter" in '
                f"[projections.{self.target.name}] and run `{command} --resume`, which skips such "
                f"events.{self._or_abort()}"
            )
        fix = (
            "The rows from before are gone, and readers see only those of the events before this "
            f"one. Fix the projection and run `{command} --resume`: it begins again, or with "
            "--accept-code it keeps the rows so far."
        )
        if self.target.settings.kind == "sql":
            return fix
        return (
            f'{fix} Or first set on_error = "dead-letter" in [projections.{self.target.name}], '
            "which skips such events."
        )

    def abort(self) -> Outcome:
        """End a rebuild that has changed no row yet.

        Raises Refused where the rows from before do not exist any more; UsageError where there is
        no rebuild.
        """
        with translated():
            entry, connection = self._unfinished(), self._session.connection
            if not changed_nothing(connection, entry):
                raise Refused(
                    f"the rebuild of {self.target.name} has changed rows in place, so it cannot be "
                    "undone",
                    hint=f"Finish it with: {self._command(in_place=True)} --resume",
                )
            self._entry, self._options = entry, Options.from_journal(dict(entry.options))

            def record(on: psycopg.Connection) -> None:
                journal.enter(on, entry.rebuild, journal.ABORTED, finished=True)

            if shards_of(connection, self._green()):
                self._ranges().drop(entry.options[journal.BEFORE], record)
            else:
                record(connection)
            self._entry = journal.latest(connection, self.target.name)
            return self._outcome(findings=False)
