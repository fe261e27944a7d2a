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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TypeVar

import psycopg
import structlog
from psycopg import sql

from esops.config import Config
from esops.errors import Refused, Stopped, UsageError
from esops.events import Position, StreamKey
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, database_of, qualified, translated
from esops.projections.definition import FoldDefinition, load_definition
from esops.projections.fingerprint import Code
from esops.projections.kinds.fold import Fold
from esops.projections.projector import VersionTables
from esops.readmodel import registry
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.rebuild import journal
from esops.rebuild.retiring import take_lock
from esops.rebuild.verification.comparison import keys_unlike
from esops.rebuild.verification.sides import Sides, paths_by_column
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
_HEALED = sql.Identifier("esops_healed")


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
        begun: journal.Unhealed,
    ) -> None:
        """Raises Refused where the rows cannot be made again one by one, by the same code."""
        name = version.projection
        again = f"Rebuild once more: esops rebuild {name} --blue-green"
        definition = load_definition(
            settings, config.directory, f"{config.path}: projections.{name}"
        )
        if not isinstance(definition, FoldDefinition) or definition.key is not None:
            raise Refused(
                f"the rows of {name} are of the events of several streams, so that no single one "
                "can be made again under a lock",
                hint=f"{again}. The switch then makes all rows right.",
            )
        if begun.code is not None and not Code(definition, settings, config.directory).made(
            begun.code
        ):
            raise Refused(
                f"the code of {name} has changed since v{version.version} was built",
                hint=f"Restore it. Or, if the application has the new code: {again}",
            )
        if store.inline is None or store.inline.database() != database_of(connection):
            raise Refused(f"the events of {name} and its table are not in one database any more")
        table = catalog.find_table(connection, *version.table)
        if table is None:
            raise Refused(f"the table {'.'.join(version.table)} does not exist any more")
        self._connection, self._store, self._inline = connection, store, store.inline
        self._version, self._definition, self._settings = version, definition, settings
        self._live = table
        self._fresh = _temporary(connection, table)
        # What the new logic was meant to change counts here.
        verify = settings.verify.model_copy(update={"expected": ()})
        self._sides = Sides.of(connection, (table, self._fresh), table.key, verify)
        self._ignored = paths_by_column(verify.ignore, table)
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
            wanted = self._inline.changed(
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
        for some in _pieces(streams, _BATCH):
            if stop():
                raise Stopped("stopped; the rows that were made right stay so")
            with self._connection.transaction():
                number, busy = self._batch(some)
            healed += number
            left |= busy
        self._healed += healed
        return healed, left

    def _batch(self, streams: Sequence[StreamKey]) -> tuple[int, set[StreamKey]]:
        keys = {self._key(each): each for each in streams}
        there = self._rows(keys, "")
        locked = self._rows(keys, " FOR UPDATE SKIP LOCKED")
        busy = there - locked
        free = [each for key, each in keys.items() if key not in busy]
        # From here on: what is read now is what the locked rows have to say.
        events, short = self._inline.whole(self._connection, free, self._settings.filter)
        self._unchecked.update(dict.fromkeys(short))
        gone = set(short)
        events = [each for each in events if StreamKey(each.stream, each.tenant) not in gone]
        fold = self._fold()
        try:
            for some in _pieces(events, 2_000):
                fold.apply(some, self._connection)
            fold.flush(self._connection)
        except BadEvent as bad:
            raise Refused(
                f"the code of {self._version.projection} fails on an event: {bad.reason}"
            ) from bad.__cause__
        unlike = keys_unlike(self._connection, self._sides)
        wrong = [tuple(key) for has, *key in unlike if has and tuple(key) in locked]
        missing = [tuple(key) for has, *key in unlike if not has]
        number = self._update(wrong) + self._insert(missing)
        folded = {self._key(StreamKey(each.stream, each.tenant)) for each in events}
        number += self._delete(folded & locked)
        return number, {keys[key] for key in busy}

    def _key(self, stream: StreamKey) -> tuple[str, ...]:
        return (stream.stream,) if len(self._live.key) == 1 else (stream.tenant, stream.stream)

    def _rows(
        self, keys: Sequence[tuple[str, ...]] | dict[tuple[str, ...], StreamKey], lock: str
    ) -> set[tuple[str, ...]]:
        """Those of the keys that have a row."""
        statement = sql.SQL("SELECT {} FROM {} AS l WHERE {}{}").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(sql.Identifier("l", name)) for name in self._live.key
            ),
            self._name,
            self._among("l"),
            sql.SQL(lock),
        )
        return set(self._connection.execute(statement, _columns(list(keys))).fetchall())

    @property
    def _name(self) -> sql.Identifier:
        return qualified(self._live.schema, self._live.name)

    def _among(self, alias: str) -> sql.Composed:
        """The condition that a row has one of the keys that are given as a column of values for
        each column of the key.
        """
        columns = [self._live.column(name) for name in self._live.key]
        return sql.SQL("({}) IN (SELECT * FROM unnest({}))").format(
            sql.SQL(", ").join(sql.Identifier(alias, each.name) for each in columns),
            sql.SQL(", ").join(
                sql.SQL("%s::text[]::{}[]").format(sql.SQL(each.type)) for each in columns
            ),
        )

    def _update(self, keys: Sequence[tuple[str, ...]]) -> int:
        if not keys or not self._sides.others:
            return 0
        statement = sql.SQL("UPDATE {} AS l SET {} FROM {} AS f WHERE {} AND {}").format(
            self._name,
            sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(pair.name), self._new(pair.name))
                for pair in self._sides.others
            ),
            _HEALED,
            sql.SQL(" AND ").join(
                sql.SQL("{} = {}").format(sql.Identifier("l", name), sql.Identifier("f", name))
                for name in self._live.key
            ),
            self._among("l"),
        )
        return self._connection.execute(statement, _columns(keys)).rowcount

    def _new(self, column: str) -> sql.Composable:
        """A column's value by the events; what is ignored in it stays as it is in the row."""
        new: sql.Composable = sql.Identifier("f", column)
        for steps in self._ignored.get(column, ()):
            path = [getattr(step, "name", getattr(step, "at", None)) for step in steps]
            if None in path:
                continue  # of each of several values
            names = sql.Literal([str(each) for each in path])
            old = sql.SQL("{} #> {}::text[]").format(sql.Identifier("l", column), names)
            new = sql.SQL(
                "CASE WHEN {0} IS NULL THEN {1} ELSE jsonb_set({1}, {2}::text[], {0}) END"
            ).format(old, new, names)
        return new

    def _insert(self, keys: Sequence[tuple[str, ...]]) -> int:
        if not keys:
            return 0
        statement = sql.SQL(
            "INSERT INTO {} ({columns}) SELECT {columns} FROM {} AS f WHERE {} ON CONFLICT "
            "DO NOTHING"
        ).format(
            self._name,
            _HEALED,
            self._among("f"),
            columns=sql.SQL(", ").join(sql.Identifier(each.name) for each in self._fresh.columns),
        )
        return self._connection.execute(statement, _columns(keys)).rowcount

    def _delete(self, keys: set[tuple[str, ...]]) -> int:
        """Rows that the fold does not have, of streams that have events."""
        if not keys:
            return 0
        same = sql.SQL(" AND ").join(
            sql.SQL("{} = {}").format(sql.Identifier("l", name), sql.Identifier("f", name))
            for name in self._live.key
        )
        statement = sql.SQL(
            "DELETE FROM {} AS l WHERE {} AND NOT EXISTS (SELECT FROM {} AS f WHERE {})"
        ).format(self._name, self._among("l"), _HEALED, same)
        return self._connection.execute(statement, _columns(list(keys))).rowcount

    def _fold(self) -> Fold:
        version, table = self._version, self._fresh
        name = next(iter(version.tables))
        of_version = VersionTables(
            projection=version.projection,
            version=version.version,
            by_name={name: table},
            keys={name: self._live.key},
            value_types=version.value_types,
            conjoined=self._store.capabilities.tenants,
            empty=True,
            cache_rows=10 * _BATCH,
            ensure_keys=lambda: None,
        )
        return Fold(self._definition, of_version)


Item = TypeVar("Item")


def _pieces(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """The items in lists of up to `most`."""
    every = iter(items)
    while some := list(islice(every, most)):
        yield some


def _columns(keys: Sequence[tuple[str, ...]]) -> list[list[str]]:
    return [list(column) for column in zip(*keys, strict=True)]


def _temporary(connection: psycopg.Connection, live: Table) -> Table:
    """A table like the one that serves, for the rows as the events make them."""
    connection.execute(
        sql.SQL(
            "CREATE TEMPORARY TABLE {} (LIKE {} INCLUDING DEFAULTS INCLUDING GENERATED, "
            "PRIMARY KEY ({})) ON COMMIT DELETE ROWS"
        ).format(
            _HEALED,
            qualified(live.schema, live.name),
            sql.SQL(", ").join(map(sql.Identifier, live.key)),
        )
    )
    row = connection.execute(
        "SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()"
    ).fetchone()
    assert row is not None
    found = catalog.find_table(connection, row[0], _HEALED.as_string(connection).strip('"'))
    assert found is not None
    return found
