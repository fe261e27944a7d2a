"""A rebuild in place: the tables that serve are emptied and filled again, for read models that are too large to be there twice.

Readers see it happen, which is why it is asked for by name. The emptying and the checkpoint's going back are one transaction, so that a
rebuild that dies at any moment goes on where its checkpoint is. Keys and indexes stay: readers need them.
"""

from __future__ import annotations

import time
from dataclasses import replace

import psycopg
from psycopg import sql

from esops.backends.postgres import catalog
from esops.backends.postgres.connect import qualified, translated
from esops.errors import Busy, Refused, Unavailable
from esops.projections import kinds, locks, readmodel, registry
from esops.rebuild import journal, verify
from esops.rebuild.outcome import Outcome
from esops.rebuild.plan import SETTLING, Options, adopted
from esops.rebuild.steps import Rebuild
from esops.rebuild.switch import LOCK_TIMEOUT

_PATIENCE = 60.0


class InPlace(Rebuild):
    """One rebuild of the version that serves."""

    in_place = True

    def begin_in_place(self, options: Options) -> Outcome:
        """Empty what serves and fill it again. Raises Refused or Busy where that cannot be done safely."""
        connection = self._session.connection
        with translated():
            if self.target.settings.live == "app":
                raise Refused(f'the application keeps {self.target.name} fresh (live = "app"): it would write between')
            self._set_about()
            with connection.transaction():
                version = self._serving(connection)
                self._check(connection, version)
                told = {**options.as_dict(), "in_place": True, "create": []}
                entry = journal.begin(connection, self.target.name, version.version, version.version, told)
        return self._run(entry)

    def _serving(self, connection: psycopg.Connection) -> registry.Version:
        """The version that serves; a table that esops does not know yet becomes version 1 under its own name."""
        version = registry.active(connection, self.target.name)
        if version is not None:
            return version
        there = {plain.name: catalog.find_table(connection, plain.schema, plain.name) for plain in self.target.plains}
        current = {name: table for name, table in there.items() if table is not None}
        if not current:
            raise Refused(
                f"{self.target.name} was never built", hint=f"Build it: esops rebuild {self.target.name} --blue-green"
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
                hint="Stop `esops run` for the time of a rebuild in place, or rebuild --blue-green beside it.",
            )
        tables = [catalog.find_table(connection, *physical) for physical in version.tables.values()]
        if None in tables:
            raise Refused(f"a table of v{version.version}, which should serve, is gone")
        kinds.check(self.target.definition, [table for table in tables if table], conjoined=self.store.capabilities.tenants)
        kinds.of_one_database(self.target.definition, self.store, connection)

    def _story(self) -> bool:
        if self._state == journal.PLANNED:
            self._hooks.run("before_catch_up", self._told())
            self._empty()
        self._check_code()
        runner = self._take_runner()
        self._enter(journal.CATCHING_UP)
        head = self._head(SETTLING)
        if head is not None and (runner.position is None or runner.position < head):
            self._say(f"filling up to position {head}")
            self._load(runner, head)
        self._enter(journal.FOLLOWING)
        self._follow()
        self._build(runner)
        self._keep(verify.Verification("none", None, self._green().rows or 0, 0, str(runner.position), note="rebuilt in place"))
        found = self._comparer().assertions(self._verification(), self.target.settings.verify.assertions)
        if found.failed_assertions:
            self._keep(found)
            self._pause("assertions do not hold")
            self._on_failure("assertions do not hold")
            return False
        self._session.do(lambda on: journal.enter(on, self._the_entry.rebuild, journal.REBUILT, finished=True))
        return True

    def _empty(self) -> None:
        """Empty the tables and put the checkpoint back, in one transaction whose lock is asked for with patience."""
        version = self._green()
        names = sql.SQL(", ").join(qualified(*physical) for physical in version.tables.values())
        deadline = time.monotonic() + _PATIENCE
        self._say(f"emptying {', '.join('.'.join(physical) for physical in version.tables.values())}")

        def do(connection: psycopg.Connection) -> None:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = '{int(LOCK_TIMEOUT.total_seconds() * 1000)}ms'".encode())
                registry.lock_row(connection, version.projection, version.version)
                connection.execute(sql.SQL("TRUNCATE {}").format(names))
                registry.start_over(connection, version, self.target.code)
                journal.enter(connection, self._the_entry.rebuild, journal.PROVISIONED)

        while True:
            try:
                self._session.do(do)
            except psycopg.errors.LockNotAvailable:
                if self._stop() or time.monotonic() >= deadline:
                    raise Unavailable("the tables' lock could not be had within a minute", hint="Nothing changed.") from None
                self._say("waiting for readers of the tables")
                time.sleep(0.3)
            except psycopg.errors.FeatureNotSupported as error:
                raise Refused(
                    f"the tables cannot be emptied: {error.diag.message_primary} {error.diag.message_detail}"
                ) from None
            else:
                self._state = journal.PROVISIONED
                return

    def abort(self) -> Outcome:
        """There is nothing to go back to."""
        raise Refused(f"{self.target.name} was emptied in place: there is nothing to go back to", hint="Go on with --resume.")


def lines(target_name: str, tables: list[str], events: int, counted: bool) -> list[str]:
    """What a rebuild in place would do, for a person."""
    return [
        f"Plan: rebuild {target_name} in place",
        f"  TRUNCATE {', '.join(tables)}; then {'' if counted else 'about '}{events:,} events are read into it again",
        "",
        "Beware:",
        "  - readers see the tables empty, and then fill, until it is done; there is no way back",
        "  - `esops run` must not run meanwhile; writers of events are not in the way",
    ]


def tables_of(connection: psycopg.Connection, name: str, plains: list[readmodel.Plain]) -> list[str]:
    """The tables that would be emptied."""
    active = registry.active(connection, name)
    return [".".join(each) for each in active.tables.values()] if active else [str(plain) for plain in plains]
