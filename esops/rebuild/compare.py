"""Blue and green at one position: hold blue's checkpoint still, bring green exactly there, and compare in one snapshot of both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import psycopg

from esops.backends.base import EventStore
from esops.backends.postgres import catalog
from esops.backends.postgres.connect import connect, translated
from esops.errors import Refused
from esops.projections import registry
from esops.projections.registry import Version
from esops.projections.runner import Runner, key_noted
from esops.rebuild import verify
from esops.rebuild.session import Session
from esops.settings import VerifySettings

_FREEZE_PATIENCE = timedelta(seconds=30)


class Comparer:
    """Compares a version that is built with the one that serves."""

    def __init__(
        self, session: Session, dsn: str, store: EventStore, green: Version, method: verify.Method, settings: VerifySettings
    ) -> None:
        """Take how to compare, and the columns that are not compared or that may differ."""
        self._session, self._dsn, self._store = session, dsn, store
        self._green, self._method, self._settings = green, method, settings

    def at_one_position(self, blue: Version, runner: Runner) -> verify.Verification:
        """Hold blue's checkpoint still, bring green exactly there, take a snapshot of both, let go, and compare.

        Where green is ahead of a blue that nobody moves on, they are compared as they stand, with a note that says so.
        """
        deadline = time.monotonic() + _FREEZE_PATIENCE.total_seconds()
        while True:
            with translated(), connect(self._dsn, f"verify {self._green.projection}") as snapshot:
                with self._session.connection.transaction(force_rollback=True):
                    held = registry.lock_row(self._session.connection, blue.projection, blue.version)
                    assert held is not None
                    if runner.position is None or runner.position <= held:
                        if runner.position != held:
                            runner.run_until(held)
                        self._begin_snapshot(snapshot)
                if snapshot.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                    return self._compare(snapshot, blue, str(held), None)
            if not self._session.followed(blue) or time.monotonic() >= deadline:
                lag = self._store.count_between(held, runner.position)
                note = f"v{blue.version} stands {lag:,} events behind green and nobody moves it on: rows of these events differ"
                return self.as_they_stand(blue, str(runner.position), note)
            time.sleep(0.02)

    def as_they_stand(self, blue: Version, position: str, note: str | None = None) -> verify.Verification:
        """Compare in one snapshot, wherever the two are."""
        with translated(), connect(self._dsn, f"verify {self._green.projection}") as snapshot:
            self._begin_snapshot(snapshot)
            return self._compare(snapshot, blue, position, note)

    def assertions(self, found: verify.Verification, assertions: Sequence[str]) -> verify.Verification:
        """A verification with those of the user's SQL assertions that do not hold of green."""
        with translated():
            failed = verify.check_assertions(self._session.connection, self._green.tables, assertions)
        return replace(found, failed_assertions=failed)

    @staticmethod
    def _begin_snapshot(snapshot: psycopg.Connection) -> None:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot.execute("SELECT pg_current_snapshot()")

    def _compare(self, snapshot: psycopg.Connection, blue: Version, position: str, note: str | None) -> verify.Verification:
        found = {
            name: self._compare_one(snapshot, blue.tables[name], physical)
            for name, physical in self._green.tables.items()
            if name in blue.tables
        }
        new = [name for name in self._green.tables if name not in blue.tables]
        if new:
            note = "; ".join(filter(None, [note, f"{', '.join(new)}: new, with nothing to be compared with"]))
        whole = verify.together(found) if len(self._green.tables) > 1 else next(iter(found.values()))
        return replace(whole, position=position, note=whole.note or note)

    def _compare_one(self, snapshot: psycopg.Connection, blue: tuple[str, str], green: tuple[str, str]) -> verify.Verification:
        blue_table, green_table = catalog.find_table(snapshot, *blue), catalog.find_table(snapshot, *green)
        if blue_table is None or green_table is None:
            raise Refused("a table that was to be compared is gone")
        key = green_table.key or key_noted(self._green, green_table.name)
        return verify.compare(
            snapshot, blue_table, green_table, key, self._method, self._settings.ignore, self._settings.expected
        )
