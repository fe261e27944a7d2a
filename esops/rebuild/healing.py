"""Makes the rows right that the application's old code wrote after a switch.

An instance loads a row, applies its new events to it and writes it back; from a row of another
logic it makes one of both, and nothing in the row shows that. So each row is compared with the fold
of all events of its stream, while the row is locked: an append that has not committed has not
written its row yet, and one that has committed is in the events that are read afterwards. Rows are
locked a few at a time, and those that somebody else has are left to the next pass, so that nobody
waits for long and nobody waits in a circle.

Whoever loaded a row before it was made right may still write it. So the passes end when no row was
wrong for longer than that can take, and a last one over all rows has found nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import structlog
from psycopg import sql

from esops.config import Config
from esops.errors import Refused, Stopped, UsageError
from esops.events import Position, StreamKey
from esops.postgres.connection import connect, translated
from esops.projections.definition import FoldDefinition, load_definition
from esops.projections.fingerprint import Code
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.ignored import ignored_in, kept
from esops.rebuild.refolded import FOLDED, RefoldedRows, columns, pieces
from esops.rebuild.retiring import take_lock
from esops.rebuild.verification.comparison import keys_unlike
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.wording import count

log = structlog.get_logger("esops.finish")
LONGEST_SESSION = timedelta(seconds=30)
"""How long an instance may take from loading a row to writing it, unless the operator says."""
_BATCH = 50
_PAUSE_SECONDS = 0.2
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of the rows: how many were wrong and are right now, in how many passes, and the
    streams of which events are gone, so that their rows could not be checked.
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
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Finished:
    """Make the rows of the version that serves right, and note that they are.

    To be called when the last instance with the old code has ended. Raises Refused where rows of
    this projection cannot be made again one by one, or where old code still writes; UsageError
    where there is nothing to finish; Busy during a rebuild; Stopped.
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
        if not done.unchecked:
            journal.note(
                connection,
                begun.rebuild,
                journal.SWITCHED,
                journal.HEALED,
                {"healed": done.healed, "passes": done.passes},
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
        self._connection, self._store = connection, store
        self._version, self._settings = version, settings
        self._rows = RefoldedRows(connection, store, version, definition, settings.verify)
        self._ignored = ignored_in(self._rows.live, self._rows.live, settings.verify)
        self._healed = 0
        self._unchecked: dict[StreamKey, None] = {}

    def run(
        self, longest: timedelta, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Finished:
        """Pass after pass, until they are clean for long enough and a last one over all is."""
        began = clean_since = time.monotonic()
        passes, after, all_of, left = 0, None, 0, set[StreamKey]()
        whole = True
        while True:
            head = self._head()
            wanted = self._rows.inline.changed(
                self._connection, None if whole else after, self._settings.filter
            )
            streams = sorted({*wanted, *left})
            if whole:
                all_of = len(streams)
            healed, left = self._pass(streams, stop)
            passes, after = passes + 1, head
            if healed:
                say(f"pass {passes}: {count(healed, 'row')} made right")
            now = time.monotonic()
            if healed or left:
                clean_since = now
            elif whole and passes > 1:
                break
            # The last pass is over all rows again.
            whole = now - clean_since >= longest.total_seconds()
            if now - began > max(_PATIENCE, 3 * longest).total_seconds():
                raise Refused(
                    f"rows of {self._version.projection} were still found wrong after "
                    f"{count(passes, 'pass', 'passes')}: an instance with the old code writes",
                    hint="End it, and run this again: rows that are right stay so.",
                )
            if not whole:
                time.sleep(min(_PAUSE_SECONDS, longest.total_seconds()))
        return Finished(
            self._version.projection,
            self._version.version,
            self._healed,
            passes,
            all_of,
            list(self._unchecked),
        )

    def _head(self) -> Position | None:
        """Nothing below it becomes visible after this moment."""
        return self._store.head(timedelta(milliseconds=200)).position

    def _pass(
        self, streams: Sequence[StreamKey], stop: Callable[[], bool]
    ) -> tuple[int, set[StreamKey]]:
        """How many rows were wrong, and the streams whose rows somebody else had."""
        healed, left = 0, set[StreamKey]()
        for some in pieces(streams, _BATCH):
            if stop():
                raise Stopped("stopped; the rows that were made right stay so")
            with self._connection.transaction():
                number, busy = self._batch(some)
            healed += number
            left |= busy
        self._healed += healed
        return healed, left

    def _batch(self, streams: Sequence[StreamKey]) -> tuple[int, set[StreamKey]]:
        keys = {self._rows.key(each): each for each in streams}
        there = self._rows.there(keys)
        locked = self._rows.there(keys, " FOR UPDATE SKIP LOCKED")
        busy = there - locked
        free = [each for key, each in keys.items() if key not in busy]
        # From here on: what is read now is what the locked rows have to say.
        events, short = self._rows.inline.whole(self._connection, free, self._settings.filter)
        self._unchecked.update(dict.fromkeys(short))
        gone = set(short)
        events = [each for each in events if StreamKey(each.stream, each.tenant) not in gone]
        self._rows.make(events)
        unlike = keys_unlike(self._connection, self._rows.sides)
        wrong = [tuple(key) for has, *key in unlike if has and tuple(key) in locked]
        missing = [tuple(key) for has, *key in unlike if not has]
        number = self._update(wrong) + self._insert(missing)
        folded = {self._rows.key(StreamKey(each.stream, each.tenant)) for each in events}
        number += self._delete(folded & locked)
        return number, {keys[key] for key in busy}

    def _update(self, keys: Sequence[tuple[str, ...]]) -> int:
        if not keys or not self._rows.sides.others:
            return 0
        statement = sql.SQL("UPDATE {} AS l SET {} FROM {} AS f WHERE {} AND {}").format(
            self._rows.name,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(pair.name), self._new(pair.name))
                for pair in self._rows.sides.others
            ),
            FOLDED,
            self._rows.same_key(),
            self._rows.among("l"),
        )
        return self._connection.execute(statement, columns(keys)).rowcount

    def _new(self, column: str) -> sql.Composable:
        """A column's value by the events; what is ignored in it stays as it is in the row."""
        paths = self._ignored.get(column)
        if not paths:
            return sql.Identifier("f", column)
        return kept(column, self._rows.live.column(column).type, paths, ("l", "f"))

    def _insert(self, keys: Sequence[tuple[str, ...]]) -> int:
        if not keys:
            return 0
        statement = sql.SQL(
            "INSERT INTO {} ({columns}) SELECT {columns} FROM {} AS f WHERE {} ON CONFLICT "
            "DO NOTHING"
        ).format(
            self._rows.name,
            FOLDED,
            self._rows.among("f"),
            columns=sql.SQL(", ").join(
                sql.Identifier(each.name) for each in self._rows.fresh.columns
            ),
        )
        return self._connection.execute(statement, columns(keys)).rowcount

    def _delete(self, keys: set[tuple[str, ...]]) -> int:
        """Rows that the fold does not have, of streams that have events."""
        if not keys:
            return 0
        statement = sql.SQL(
            "DELETE FROM {} AS l WHERE {} AND NOT EXISTS (SELECT FROM {} AS f WHERE {})"
        ).format(self._rows.name, self._rows.among("l"), FOLDED, self._rows.same_key())
        return self._connection.execute(statement, columns(list(keys))).rowcount
