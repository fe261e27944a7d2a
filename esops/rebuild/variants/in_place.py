"""A rebuild in place: the tables that serve are emptied and filled again, for read models that are
too large to be there twice.

Or, in ranges, replaced part by part. Readers see it happen, which is why it is asked for by name.
The emptying and the checkpoint's going
back are one transaction, so that a rebuild that dies at any moment goes on where its checkpoint is.
Keys and indexes stay: readers need
them.
"""

from __future__ import annotations

from dataclasses import replace

import psycopg
from psycopg import sql

from esops.errors import Busy, Refused
from esops.postgres import catalog
from esops.postgres.connection import qualified, translated
from esops.projections import kinds
from esops.readmodel import locks, registry
from esops.readmodel.names import ReadModelName
from esops.readmodel.shards import shards_of
from esops.rebuild import journal
from esops.rebuild.load.coordinator import check_dealt
from esops.rebuild.outcome import Outcome
from esops.rebuild.plan import SETTLING, Options, adopted
from esops.rebuild.steps import Rebuild
from esops.rebuild.switch import LOCK_TIMEOUT
from esops.rebuild.variants.ranges import Ranges, patiently
from esops.rebuild.verification import comparison as verify


class InPlace(Rebuild):
    """One rebuild of the version that serves."""

    in_place = True

    def begin_in_place(self, options: Options) -> Outcome:
        """Empty what serves and fill it again.

        Raises Refused or Busy where that cannot be done safely.
        """
        connection = self._session.connection
        with translated():
            if self.target.settings.live == "app":
                raise Refused(
                    f'the application keeps {self.target.name} fresh (live = "app"): it would '
                    "write between"
                )
            self._prepare()
            with connection.transaction():
                version = self._serving(connection)
                self._check(connection, version)
                if options.ranges is not None:
                    check_dealt(self.target.definition, self.store, "--ranges")
                numbers = [each.version for each in registry.versions(connection, self.target.name)]
                told = {
                    **options.as_dict(),
                    "in_place": True,
                    "create": [],
                    "scratch": max(numbers) + 1,
                }
                entry = journal.begin(
                    connection, self.target.name, version.version, version.version, told
                )
        return self.run_steps(entry)

    def _serving(self, connection: psycopg.Connection) -> registry.Version:
        """The version that serves; a table that esops does not know yet becomes version 1 under its
        own name.
        """
        version = registry.active(connection, self.target.name)
        if version is not None:
            return version
        there = {
            model.name: catalog.find_table(connection, model.schema, model.name)
            for model in self.target.names
        }
        current = {name: table for name, table in there.items() if table is not None}
        if not current:
            raise Refused(
                f"{self.target.name} was never built",
                hint=f"Build it: esops rebuild {self.target.name} --blue-green",
            )
        version = replace(adopted(connection, self.target, current), rows=0)
        registry.insert(connection, version)
        registry.set_active(connection, self.target.name, version.version, None)
        return version

    def _check(self, connection: psycopg.Connection, version: registry.Version) -> None:
        holder = locks.holder(connection, locks.version_lock(version.projection, version.version))
        if holder is not None:
            raise Busy(
                f"{version.projection} v{version.version} is kept fresh by {holder}",
                hint="Stop `esops run` for the time of a rebuild in place, or rebuild --blue-green "
                "beside it.",
            )
        tables = [catalog.find_table(connection, *physical) for physical in version.tables.values()]
        if None in tables:
            raise Refused(f"a table of v{version.version}, which should serve, is gone")
        kinds.check(
            self.target.definition,
            [table for table in tables if table],
            conjoined=self.store.capabilities.tenants,
        )
        kinds.of_one_database(self.target.definition, self.store, connection)

    def _story(self) -> bool:
        if self._state == journal.PLANNED:
            self._hooks.run("before_catch_up", self._told())
            if self._options.ranges is None:
                self._empty()
            else:
                self._deal(self._options.ranges)
        self._check_code()
        self._enter(journal.CATCHING_UP)
        if self._options.ranges is not None:
            self._take_ranges().fill()
        runner = self._take_runner()
        head = self._head(SETTLING)
        if head is not None and (runner.position is None or runner.position < head):
            self._say(f"filling up to position {head}")
            self._load(runner, head)
        self._enter(journal.FOLLOWING)
        self._follow()
        self._build(runner)
        self._keep(
            verify.Verification(
                "none",
                None,
                self._green().rows or 0,
                0,
                str(runner.position),
                note="rebuilt in place",
            )
        )
        found = self._comparer().assertions(
            self._verification(), self.target.settings.verify.assertions
        )
        if found.failed_assertions:
            self._keep(found)
            self._pause("assertions do not hold")
            self._on_failure("assertions do not hold")
            return False
        self._session.do(
            lambda on: journal.enter(on, self._the_entry.rebuild, journal.REBUILT, finished=True)
        )
        return True

    def _empty(self) -> None:
        """Empty the tables and put the checkpoint back, in one transaction whose lock is asked for
        with patience.
        """
        version = self._green()
        names = sql.SQL(", ").join(qualified(*physical) for physical in version.tables.values())
        self._say(
            f"emptying {', '.join('.'.join(physical) for physical in version.tables.values())}"
        )

        def do(connection: psycopg.Connection) -> None:
            registry.lock_checkpoint(connection, version.projection, version.version)
            connection.execute(sql.SQL("TRUNCATE {}").format(names))
            registry.reset(connection, version, self.target.code)
            journal.enter(connection, self._the_entry.rebuild, journal.PROVISIONED)

        try:
            patiently(self._session, do, LOCK_TIMEOUT, self._stop, self._say)
        except psycopg.errors.FeatureNotSupported as error:
            raise Refused(
                f"the tables cannot be emptied: {error.diag.message_primary} "
                f"{error.diag.message_detail}"
            ) from None
        self._state = journal.PROVISIONED

    def _deal(self, of: int) -> None:
        """Begin with ranges: up to one position for all of them."""
        head = self._head(SETTLING)
        if head is None:
            raise Refused(
                f"store {self.store.name} has no event yet: there is nothing to rebuild from"
            )
        self._say(f"replacing the rows in {of} ranges, up to position {head}")
        self._take_ranges().begin(
            of, head, lambda on: journal.enter(on, self._the_entry.rebuild, journal.PROVISIONED)
        )
        self._state = journal.PROVISIONED

    def _take_ranges(self) -> Ranges:
        version = self._green()
        found = self._session.do(lambda on: shards_of(on, version))
        total = self.store.count_between(None, found[0].until) if found else None
        return Ranges(
            self._session,
            self.target,
            self.store,
            version,
            self._the_entry.options["scratch"],
            batch_size=self._options.batch_size,
            throttle=self._take_throttle(),
            stop=self._stop,
            report=lambda done: self._watcher.progress(done, total),
            say=self._say,
        )

    def _check_code(self) -> None:
        """While ranges are replaced, it is the version that nobody reads which tells by
        what code.
        """
        scratch = self._the_entry.options.get("scratch")
        known = self._session.do(lambda on: registry.versions(on, self.target.name))
        made = next((each for each in known if each.version == scratch), None)
        if made is None:
            super()._check_code()
        elif made.fingerprint != self.target.code:
            raise Refused(
                f"the code of {self.target.name} has changed since rebuild "
                f"{self._the_entry.rebuild} began",
                hint="Put the code back to go on: some of the rows are made by it already.",
            )

    def abort(self) -> Outcome:
        """There is nothing to go back to."""
        raise Refused(
            f"{self.target.name} was changed in place: there is nothing to go back to",
            hint="Go on with --resume.",
        )


def lines(
    target_name: str, tables: list[str], events: int, counted: bool, ranges: int | None = None
) -> list[str]:
    """What a rebuild in place would do, for a person."""
    if ranges is not None:
        return [
            f"Plan: rebuild {target_name} in place, in {ranges} ranges of its keys",
            (
                f"  {'' if counted else 'about '}{events:,} events are read, those of each range "
                "by themselves; in one transaction a range,"
            ),
            (
                "  DELETE and INSERT … ON CONFLICT DO UPDATE bring the rows of "
                f"{', '.join(tables)} that differ to what they should be"
            ),
            "",
            "Beware:",
            (
                "  - until it is done readers see some rows by the old logic and some by the new, "
                "each as one of the two; there is no way back"
            ),
            "  - `esops run` must not run meanwhile; writers of events are not in the way",
        ]
    return [
        f"Plan: rebuild {target_name} in place",
        (
            f"  TRUNCATE {', '.join(tables)}; then {'' if counted else 'about '}{events:,} events "
            "are read into it again"
        ),
        "",
        "Beware:",
        "  - readers see the tables empty, and then fill, until it is done; there is no way back",
        "  - `esops run` must not run meanwhile; writers of events are not in the way",
    ]


def tables_of(connection: psycopg.Connection, name: str, names: list[ReadModelName]) -> list[str]:
    """The tables that would be emptied."""
    active = registry.active(connection, name)
    return (
        [".".join(each) for each in active.tables.values()]
        if active
        else [str(model) for model in names]
    )
