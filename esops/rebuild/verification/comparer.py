"""Compares blue and green at one position: hold blue's checkpoint still, bring green exactly there,
and compare in one snapshot of both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from esops.errors import Refused
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ
from esops.readmodel import registry
from esops.readmodel.after_load import noted_key
from esops.readmodel.registry import Version
from esops.rebuild.session import Session
from esops.rebuild.verification import comparison
from esops.rebuild.verification.result import Method, Verification, combined
from esops.rebuild.verification.sides import KeyTexts, Sides
from esops.running.runner import Runner
from esops.settings import VerifySettings
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of, has_read
from esops.wording import count

_FREEZE_PATIENCE = timedelta(seconds=30)
_CONVERGE_PATIENCE = timedelta(seconds=60)
_LOOKS = 3
LOOK_EVERY_SECONDS = 1.0
"""The pause between two looks at rows that differ."""
DOUBTFUL = 10_000
"""The most rows that are checked again, one by one."""


@dataclass(frozen=True)
class BetweenLooks:
    """What happens between two looks at rows that others write.

    `step` advances green, or waits; `caught_up` tells whether both sides have applied all events
    that there were when the comparison began.
    """

    step: Callable[[], None]
    caught_up: Callable[[], bool]
    say: Callable[[str], None]
    behind: Callable[[], str] = str
    """Which of the application's processors is behind the head, in words; empty: none."""


def processors_reached(
    store: EventStore, names: Sequence[str], head: Position | None
) -> Callable[[], bool]:
    """A function that tells whether the application's processors have read what they read up to
    `head`.

    Processors that have not moved since it was called last count as having got there: one that is
    stopped must not keep the comparison waiting.
    """
    before: dict[str, Position | None] = {}

    def ask() -> bool:
        there = {name: checkpoint_of(store, name) for name in names}
        now = {name: each.position if each else None for name, each in there.items()}
        still = now == before
        before.update(now)
        return still or all(
            head is None or (each is not None and has_read(store, each, head))
            for each in there.values()
        )

    return ask


def processors_behind(
    store: EventStore, names: Sequence[str], head: Position | None
) -> Callable[[], str]:
    """A function that tells which of the application's processors have not read what they read up
    to `head`, in words; empty where there is none.
    """

    def ask() -> str:
        late = []
        for name in names:
            reader = checkpoint_of(store, name)
            if head is None or reader is None or has_read(store, reader, head):
                continue
            events = count(store.counts.between(reader.position, head), "event")
            at = reader.place or "no position"
            late.append(f"the application's processor {name} is at {at}, {events} behind {head}")
        return "; ".join(late)

    return ask


@dataclass
class _Sighting:
    """How often in a row a pair of rows was seen to differ in the same way."""

    digests: tuple[str | None, str | None] | None = None
    count: int = 0

    def look(self, digests: tuple[str | None, str | None], *, counts: bool) -> None:
        """Note one more look's digests of blue and green; it `counts` when both sides had applied
        what there was.
        """
        self.count = self.count + 1 if counts and digests == self.digests else 0
        self.digests = digests


class Comparer:
    """Compares a version that is built with the one that serves."""

    def __init__(
        self,
        session: Session,
        dsn: str,
        store: EventStore,
        green: Version,
        method: Method,
        settings: VerifySettings,
    ) -> None:
        """`settings` name the columns that are not compared, and those that may differ."""
        self._session, self._dsn, self._store = session, dsn, store
        self._green, self._method, self._settings = green, method, settings

    def at_one_position(self, blue: Version, runner: Runner) -> Verification:
        """Hold blue's checkpoint still, bring green exactly there, take a snapshot of both, let go,
        and compare.

        Where green is ahead and nobody advances blue, they are compared as they are, with a note
        that says so.
        """
        deadline = time.monotonic() + _FREEZE_PATIENCE.total_seconds()
        while True:
            last_look = not self._session.followed(blue) or time.monotonic() >= deadline
            with (
                translated(),
                connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot,
            ):
                with self._session.connection.transaction(force_rollback=True):
                    held = registry.lock_checkpoint(
                        self._session.connection, blue.projection, blue.version
                    )
                    assert held is not None
                    # Green may be ahead already; then blue is let go, so that it can catch up.
                    behind = runner.position is not None and runner.position > held
                    if not behind and runner.position != held:
                        runner.run_until(held)
                    if not behind or last_look:
                        self._begin_snapshot(snapshot)
                if not behind:
                    return self._compare(snapshot, blue, str(held), None)
                if last_look:
                    lag = self._store.counts.between(held, runner.position)
                    note = (
                        f"v{blue.version} is {count(lag, 'event')} behind green and nothing "
                        "advances it, so rows of these events differ"
                    )
                    return self._compare(snapshot, blue, str(runner.position), note)
            # Somebody advances blue: soon it is where green is, or past it.
            time.sleep(0.02)

    def where_it_stands(self, blue: Version, at: Position) -> Verification | None:
        """Compare with blue, whose position is that of green; None where blue has moved.

        Its checkpoint is held still until the snapshot of both is there.
        """
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            with self._session.connection.transaction(force_rollback=True):
                held = registry.lock_checkpoint(
                    self._session.connection, blue.projection, blue.version
                )
                if held != at:
                    return None
                self._begin_snapshot(snapshot)
            return self._compare(snapshot, blue, str(at), None)

    def where_application_stands(
        self, blue: Version, at: Position, standing: Callable[[], Position | None]
    ) -> Verification | None:
        """Compare with blue, which the application had brought to a position when it stopped; None
        where that moves: `standing` tells where it is.
        """
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            self._begin_snapshot(snapshot)
            # Its rows and its checkpoint move together, and never back.
            if standing() != at:
                return None
            return self._compare(snapshot, blue, str(at), None)

    def as_they_are(self, blue: Version, position: str, note: str | None = None) -> Verification:
        """Compare in one snapshot, wherever the two are."""
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            self._begin_snapshot(snapshot)
            return self._compare(snapshot, blue, position, note)

    def brought_up(
        self, blue: Version, position: str, bring: Callable[[psycopg.Connection], object]
    ) -> Verification:
        """Compare in one snapshot in which `bring` has brought green up to blue; what it writes is
        rolled back.
        """
        with translated(), connect(self._dsn, f"verify {self._green.projection}") as snapshot:
            snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            bring(snapshot)
            found = self._compare(snapshot, blue, position, None)
            snapshot.execute("ROLLBACK")
            return found

    def until_they_agree(self, blue: Version, position: str, between: BetweenLooks) -> Verification:
        """Compare while others write both: rows that differ are checked again until they agree or
        stay different.

        A row stays different if both sides were unchanged in three looks, after both had applied
        what there was at the first look.
        """
        found = self.as_they_are(blue, position)
        # Samples and counts name no rows that could be checked again.
        if found.method not in {"exact", "columns"} or not found.differing:
            return found
        pairs = {
            name: (blue.tables[name], green)
            for name, green in self._green.tables.items()
            if name in blue.tables
        }
        doubtful = {name: self._doubtful(*pair) for name, pair in pairs.items()}
        kept = {name: keys for name, keys in doubtful.items() if keys is not None}
        if len(kept) < len(doubtful):
            note = f"more than {DOUBTFUL:,} rows differ, too many to check them again one by one"
            return replace(found, note="; ".join(filter(None, [found.note, note])))
        first = sum(map(len, kept.values()))
        between.say(
            f"{count(first, 'row')} differ, and both sides may be being written; checking again"
        )
        began, sightings = (
            time.monotonic(),
            {name: {key: _Sighting() for key in keys} for name, keys in kept.items()},
        )
        while any(each.count < _LOOKS for seen in sightings.values() for each in seen.values()):
            if time.monotonic() - began > _CONVERGE_PATIENCE.total_seconds():
                break
            between.step()
            # A look counts only when both sides had the chance to apply what they lacked.
            settled = between.caught_up()
            for name, seen in sightings.items():
                self._look_again(*pairs[name], seen, counts=settled)
        last = {name: self._last_look(*pairs[name], list(seen)) for name, seen in sightings.items()}
        whole = combined(last) if len(self._green.tables) > 1 else next(iter(last.values()))
        agreed = first - sum(map(len, sightings.values()))
        note = (
            f"{agreed:,} of the {count(first, 'row')} that differed at first agreed within "
            f"{time.monotonic() - began:.0f} s"
        )
        behind = between.behind() and f"{between.behind()}, so rows of these events differ"
        notes = filter(None, [found.note, note, behind if whole.differing else None])
        return replace(whole, position=position, note="; ".join(notes))

    def _doubtful(self, blue: tuple[str, str], green: tuple[str, str]) -> list[KeyTexts] | None:
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            self._begin_snapshot(snapshot)
            return comparison.keys_that_differ(
                snapshot, self._sides(snapshot, blue, green), DOUBTFUL
            )

    def _look_again(
        self,
        blue: tuple[str, str],
        green: tuple[str, str],
        seen: dict[KeyTexts, _Sighting],
        *,
        counts: bool,
    ) -> None:
        """Look once more at the rows that are still in doubt, and drop those that agree."""
        if not seen:
            return
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            self._begin_snapshot(snapshot)
            now = comparison.digests_of_keys(
                snapshot, self._sides(snapshot, blue, green), list(seen)
            )
        for key, digests in now.items():
            # Agreed once is enough: the difference was only a delay.
            if digests[0] == digests[1]:
                del seen[key]
            else:
                seen[key].look(digests, counts=counts)

    def _last_look(
        self, blue: tuple[str, str], green: tuple[str, str], keys: list[KeyTexts]
    ) -> Verification:
        with translated(), connect(self._dsn, f"verify {self._green.projection}", READ) as snapshot:
            self._begin_snapshot(snapshot)
            sides = self._sides(snapshot, blue, green)
            there = comparison.digests_of_keys(snapshot, sides, keys) if keys else {}
            keys = [key for key, digests in there.items() if digests[0] != digests[1]]
            return comparison.compare_keys(snapshot, sides, keys, self._method)

    def _sides(
        self, snapshot: psycopg.Connection, blue: tuple[str, str], green: tuple[str, str]
    ) -> Sides:
        blue_table, green_table = self._table(snapshot, blue), self._table(snapshot, green)
        # Before the indexes are built, the key is only noted.
        key = green_table.key or noted_key(self._green, green_table.name)
        return Sides.of(snapshot, (blue_table, green_table), key, self._settings)

    @staticmethod
    def _table(snapshot: psycopg.Connection, name: tuple[str, str]) -> Table:
        found = catalog.find_table(snapshot, *name)
        if found is None:
            raise Refused("a table that was to be compared does not exist any more")
        return found

    def assertions(
        self,
        found: Verification,
        assertions: Sequence[str],
        between: BetweenLooks | None = None,
    ) -> Verification:
        """The verification, with the user's SQL assertions that are not true of green.

        One may compare with blue, which others write. So what happens `between` two looks is given
        where blue is written: what is not true yet is asked again, as rows that differ are.
        """

        def failing(asked: Sequence[str]) -> list[str]:
            with translated():
                return comparison.check_assertions(
                    self._session.connection, self._green.tables, asked
                )

        failed = failing(assertions)
        if failed and between is not None:
            between.say(f"{count(len(failed), 'assertion')} not true yet; asking again")
            deadline, looks = time.monotonic() + _CONVERGE_PATIENCE.total_seconds(), 0
            while failed and looks < _LOOKS and time.monotonic() < deadline:
                between.step()
                # A look counts only when both sides had the chance to apply what they lacked.
                settled = between.caught_up()
                failed = failing(failed)
                looks = looks + 1 if settled else 0
        return replace(found, failed_assertions=failed)

    @staticmethod
    def _begin_snapshot(snapshot: psycopg.Connection) -> None:
        snapshot.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot.execute("SELECT pg_current_snapshot()")  # only the first query takes the snapshot

    def _compare(
        self, snapshot: psycopg.Connection, blue: Version, position: str, note: str | None
    ) -> Verification:
        found = {
            name: self._compare_one(snapshot, blue.tables[name], physical)
            for name, physical in self._green.tables.items()
            if name in blue.tables
        }
        new = [name for name in self._green.tables if name not in blue.tables]
        if new:
            note = "; ".join(
                filter(None, [note, f"{', '.join(new)}: new, so there is nothing to compare with"])
            )
        whole = combined(found) if len(self._green.tables) > 1 else next(iter(found.values()))
        return replace(whole, position=position, note=whole.note or note)

    def _compare_one(
        self, snapshot: psycopg.Connection, blue: tuple[str, str], green: tuple[str, str]
    ) -> Verification:
        return comparison.compare(snapshot, self._sides(snapshot, blue, green), self._method)
