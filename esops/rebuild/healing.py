"""Makes the rows right that the application's old code wrote after a switch.

An instance loads a row, applies its new events to it and writes it back; from a row of another
logic it makes one of both, and nothing in the row shows that. So each row is compared with the fold
of all events of its stream (row_repair.py), first all of them, then those of streams
that got events since.

Whoever loaded a row before it was made right may still write it. So the passes end when no row was
wrong for longer than that can take, and a last one over all rows has found nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import structlog

from esops.config import Config
from esops.errors import Refused, Stopped, UsageError
from esops.events import Position, StreamKey
from esops.postgres.connection import connect, translated
from esops.projections.definition import FoldDefinition, load_definition
from esops.projections.fingerprint import Code
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.blockers import blockers, held_by, how_to_end
from esops.rebuild.refolded import RefoldedRows
from esops.rebuild.retiring import take_lock
from esops.rebuild.row_repair import Found, RowRepair
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.wording import count

log = structlog.get_logger("esops.finish")
LONGEST_SESSION = timedelta(seconds=30)
"""How long an instance may take from loading a row to writing it, unless the operator says."""
_PAUSE_SECONDS = 0.2
_PATIENCE = timedelta(minutes=10)
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of the rows: how many were wrong and are right now, in how many passes, and those
    that could not be checked, by their streams: events of these are gone or archived.
    """

    projection: str
    version: int
    healed: int
    passes: int
    streams: int
    unchecked: Sequence[StreamKey]

    def as_dict(self) -> dict[str, object]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "version": self.version,
            "healed": self.healed,
            "passes": self.passes,
            "streams": self.streams,
            "unchecked": [each.stream for each in self.unchecked],
        }


def finish(
    config: Config,
    name: str,
    *,
    longest_session: timedelta = LONGEST_SESSION,
    accept_unchecked: bool = False,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Finished:
    """Make the rows of the version that serves right, and note that they are.

    To be called when the last instance with the old code has ended. `accept_unchecked`: rows that
    cannot be checked count as right. Raises Refused where rows of this projection cannot be made
    again one by one, or where old code still writes; UsageError where there is nothing to finish;
    Busy during a rebuild; Stopped.
    """
    settings = config.projection(name)
    with translated(), connect(config.readmodel_of(name).dsn, f"finish {name}") as connection:
        take_lock(connection, name)
        version = registry.active(connection, name)
        begun = None if version is None else journal.unhealed(connection, name, version.version)
        if version is None or begun is None:
            raise UsageError(
                f"{name} has no switch to finish",
                hint='That is for live = "inline", after a rebuild.',
            )
        with open_store(*config.store(version.store)) as store:
            healer = _Healer(config, connection, store, version, settings, begun)
            done = healer.run(longest_session, stop, say)
        # Where not all is right, a rebuild that comes after this word makes it so.
        right = accept_unchecked or not done.unchecked
        journal.note(
            connection,
            begun.rebuild,
            journal.SWITCHED,
            journal.HEALED if right else journal.OLD_CODE_ENDED,
            {"healed": done.healed, "passes": done.passes, "unchecked": len(done.unchecked)},
        )
        return done


class _Healer:
    """Compares rows with their events, and writes those that differ."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        settings: ProjectionSettings,
        begun: journal.InlineSwitch,
    ) -> None:
        """Raises Refused where the rows cannot be made again one by one, by the same code."""
        name = version.projection
        again = f"Rebuild once more: esops rebuild {name} --blue-green"
        definition = load_definition(
            settings, config.directory, f"{config.path}: projections.{name}"
        )
        if not isinstance(definition, FoldDefinition) or definition.key is not None:
            # Kept, since a switch that comes after this word makes all rows right.
            journal.note(connection, begun.rebuild, journal.SWITCHED, journal.OLD_CODE_ENDED)
            raise Refused(
                f"the rows of {name} are of the events of several streams, so that no single one "
                "can be made again under a lock",
                hint=f"It is noted that no old code writes any more. {again} --max-diff 100%. Rows "
                "of the old logic differ, and the switch makes all right.",
            )
        if begun.code is not None and not Code(definition, settings, config.directory).made(
            begun.code
        ):
            raise Refused(
                f"the code of {name} has changed since v{version.version} was built",
                hint=f"Restore it. Or, if the application has the new code: {again}",
            )
        self._connection, self._store, self._begun, self._again = connection, store, begun, again
        self._version, self._settings = version, settings
        self._rows = RefoldedRows(connection, store, version, definition, settings.verify)
        self._repair = RowRepair(connection, self._rows, settings)

    def run(
        self, longest: timedelta, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Finished:
        """Pass after pass, until they are clean for long enough and a last one over all is."""
        passes, healed, all_of = 0, 0, 0
        after: Position | None = None
        whole, found = True, Found()
        unchecked: set[StreamKey] = set()
        every: Sequence[StreamKey] = ()
        clean_since = deadline = time.monotonic()
        while True:
            head = self._head()
            wanted = self._rows.inline.changed(
                self._connection, None if whole else after, self._repair.all_of
            )
            streams = sorted({*wanted, *found.busy, *found.unfit})
            if whole:
                all_of, every, unchecked = len(streams), wanted, set()
            found = self._pass(streams, stop)
            passes, after = passes + 1, head
            healed += found.healed
            unchecked = (unchecked - set(streams)) | found.unchecked
            if found.healed:
                say(f"pass {passes}: {count(found.healed, 'row')} made right")
            now = time.monotonic()
            if passes == 1:
                # How long the first one takes says nothing of who writes.
                deadline = now + max(_PATIENCE, 3 * longest).total_seconds()
            if found.healed or found.busy:
                clean_since = now
            elif whole and passes > 1:
                break
            # The last pass is over all rows again.
            whole = now - clean_since >= longest.total_seconds()
            if now > deadline:
                raise self._still_wrong(found, passes)
            if not whole:
                time.sleep(min(_PAUSE_SECONDS, longest.total_seconds()))
        if found.unfit:
            raise self._unfit(found.unfit, healed)
        unchecked |= self._without_events(every, after)
        name, version = self._version.projection, self._version.version
        return Finished(name, version, healed, passes, all_of, sorted(unchecked))

    def _without_events(
        self, streams: Sequence[StreamKey], after: Position | None
    ) -> set[StreamKey]:
        """The rows of which no event tells. `streams` are those of all events up to a position."""
        known = {self._rows.key(each) for each in streams}
        lone = {key for key in self._rows.every_key() if key not in known}
        if lone:
            later = self._rows.inline.changed(self._connection, after, self._repair.all_of)
            lone -= {self._rows.key(each) for each in later}
        return {self._rows.stream(key) for key in lone}

    def _head(self) -> Position | None:
        """Nothing below it becomes visible after this moment."""
        return self._store.head(timedelta(milliseconds=200)).position

    def _pass(self, streams: Sequence[StreamKey], stop: Callable[[], bool]) -> Found:
        every = Found()
        for found in self._repair.repair(streams):
            every.add(found)
            if stop():
                raise Stopped("stopped; the rows that were made right stay so")
        return every

    def _still_wrong(self, found: Found, passes: int) -> Refused:
        name = self._version.projection
        if found.healed or not found.busy:
            return Refused(
                f"rows of {name} were still found wrong after {count(passes, 'pass', 'passes')}: "
                "an instance with the old code writes",
                hint="End it, and run this again: rows that are right stay so.",
            )
        table = self._rows.name.as_string(self._connection)
        holders = blockers(self._connection, [table])
        return Refused(
            f"{_some(found.busy, 'row')} of {name} could not be made right, since others have "
            f"locked or written it whenever esops looked; of the table, {held_by(holders)}",
            hint=f"Run this again when they have ended: rows that are right stay so."
            f"{how_to_end(holders)}",
        )

    def _unfit(self, unfit: Mapping[StreamKey, str], healed: int) -> Refused:
        name = self._version.projection
        # Kept, since a switch that comes after this word makes all rows right.
        journal.note(
            self._connection, self._begun.rebuild, journal.SWITCHED, journal.OLD_CODE_ENDED
        )
        return Refused(
            f"the table does not take {_some(unfit, 'row')} of {name} as the events make it: "
            f"{next(iter(unfit.values()))}. {count(healed, 'row')} made right",
            hint="Where rows have each other's unique values, none can be written by itself. "
            f"{self._again} --max-diff {len(unfit)}",
        )


def _some(streams: Iterable[StreamKey], what: str) -> str:
    found = sorted(each.stream for each in streams)
    more = ", …" if len(found) > _NAMED else ""
    return f"{count(len(found), what)} ({', '.join(found[:_NAMED])}{more})"
