"""`esops rebuild NAME --keys …` and `projection check NAME --heal`: which rows are made right, and
by which rules.

A version that esops keeps is healed under its own lock (heal.py); a table that the application
writes in the transaction of each append, row by row among its writers (inline_heal.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg

from esops.actions import current
from esops.check import checks
from esops.check.app_heal import AppHealer
from esops.check.checks import WrongKey
from esops.check.courses import Course, LogCourse, StreamCourse, only_keys
from esops.check.heal import Healed, Healer
from esops.check.inline_heal import InlineHeal, check_kind
from esops.check.key_text import canonical_keys
from esops.check.scratch import Scratch
from esops.check.served_rows import RowKey, ServedRows
from esops.check.standing import AppCheckpoint
from esops.check.subject import built_by, find_subject
from esops.check.wholeness import archived_away
from esops.config import Config
from esops.errors import Refused, UsageError
from esops.events import Position, RecordedEvent, StreamKey
from esops.postgres.catalog import Table
from esops.postgres.connection import connect, database_of, translated
from esops.projections.definition import Definition, FoldDefinition
from esops.readmodel import marks, migrations, own_rows, registry
from esops.readmodel.registry import Version
from esops.readmodel.rows import BadEvent
from esops.rebuild.healing import LONGEST_SESSION
from esops.rebuild.refolded import RefoldedRows
from esops.rebuild.retiring import take_lock
from esops.rebuild.stopped_processor import StandingProcessor
from esops.running.throttle import Limits, Throttle
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.archive.archived_away import removed_from
from esops.stores.base import EventStore

_FREE = Limits()
_FEW = 1_000
"""Keys that are held against each row that was found wrong, column by column."""


@dataclass(frozen=True)
class HealRequest:
    """Whose rows to make right: keys as text (of several columns: a tuple), streams, or what a
    check found (`from_check`: its number; `wrong`: keys of one that was not recorded).

    `write`: whether they are written, not only compared.
    """

    keys: Sequence[RowKey] = ()
    streams: Sequence[str] = ()
    from_check: int | None = None
    wrong: Sequence[WrongKey] = ()
    limits: Limits = _FREE
    write: bool = True
    processor_stopped: bool = False
    """The operator says that the application's processor has stopped."""
    longest_session: timedelta = LONGEST_SESSION
    """How long an instance may take from loading a row to writing it, where the application writes
    rows with each append.
    """


def heal(
    config: Config,
    name: str,
    request: HealRequest,
    *,
    store: str | None = None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _: None,
) -> Healed:
    """Make the chosen rows of the version that serves what its events make them.

    Raises UsageError where nothing serves or a key is none; Refused where rows cannot be made again
    one by one; Busy during a rebuild; Stopped.
    """
    settings, dsn = config.projection(name), config.readmodel_of(name).dsn
    current.concerns(name)
    with translated(), connect(dsn, f"heal {name}") as connection:
        take_lock(connection, name)
        if settings.live != "esops":
            migrations.upgrade(connection)
            version = find_subject(config, name, None, connection).version
        else:
            version = _serving(connection, name)
        wrong = [*request.wrong, *_found(connection, version, request.from_check)]
        definition = built_by(config, version)
        with (
            open_store(*config.store(store or version.store)) as events,
            closing(Throttle(dsn, name, request.limits, stop=stop, say=say)) as throttle,
        ):
            marks.check(connection, events, version)
            own_rows.check_applied(version)
            work = _Heal(config, connection, events, version, definition, settings)
            asked = replace(request, wrong=wrong)
            if settings.live == "inline":
                done = work.inline(asked, stop, say)
            elif version.position is None and settings.checkpoint is not None:
                done = work.application(asked, settings.checkpoint, stop)
            else:
                done = work.own(asked, throttle, stop)
        done.absent = sorted({*done.absent, *work.no_keys})
        left = {*done.unknown, *done.unfit}
        if request.write and request.from_check is not None:
            checks.mark_healed(
                connection, request.from_check, [each for each in wrong if not _is_of(each, left)]
            )
        elif request.write:
            _note_right(connection, version, done, left)
        return done


def _note_right(
    connection: psycopg.Connection, version: Version, done: Healed, left: Collection[RowKey]
) -> None:
    """Note of rows that checks found wrong that they are right now, although no check named them
    for this heal.
    """
    healed = {key for keys in done.differing.values() for key in keys if key not in left}
    number = version.version or None  # none for a table that esops has no version of
    right = [
        each
        for each in checks.open_keys(connection, version.projection, number)
        if each[1] in healed or (len(healed) <= _FEW and _is_of(WrongKey(*each, ""), healed))
    ]
    checks.forget(connection, version.projection, number, right)


def _serving(connection: psycopg.Connection, name: str) -> Version:
    migrations.upgrade(connection)
    version = registry.active(connection, name)
    if version is None:
        raise UsageError(
            f"no version of {name} serves", hint=f"Build one: esops rebuild {name} --blue-green"
        )
    return version


def _found(connection: psycopg.Connection, version: Version, check: int | None) -> list[WrongKey]:
    """The keys that a check found wrong. Raises UsageError where it was of another version."""
    if check is None:
        return []
    made = checks.recorded(connection, check)
    if (made.projection, made.version or 0) != (version.projection, version.version):
        of = made.projection if made.version is None else f"{made.projection} v{made.version}"
        raise UsageError(
            f"check {check} was of {of}, and v{version.version} of {version.projection} serves",
            hint=f"Check it: esops projection check {version.projection}",
        )
    return checks.keys_of(connection, check)


class _Heal:
    """One heal."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        store: EventStore,
        version: Version,
        definition: Definition,
        settings: ProjectionSettings,
    ) -> None:
        self._config, self._connection, self._store = config, connection, store
        self._version, self._definition, self._settings = version, definition, settings
        self.no_keys: list[RowKey] = []
        """Those that were named and that no row of the table can have."""

    def inline(
        self, request: HealRequest, stop: Callable[[], bool], say: Callable[[str], None]
    ) -> Healed:
        """Of a table that the application writes with each append."""
        if request.streams and self._store.capabilities.tenants:
            raise UsageError(
                "tenants share the store, so a stream's name alone does not say which one is meant",
                hint="Name the keys of the rows: --keys.",
            )
        connection, store, settings = self._connection, self._store, self._settings
        definition = check_kind(self._definition, self._version)
        rows = RefoldedRows(connection, store, self._version, definition, settings.verify)
        wanted = [*request.keys, *(each.key for each in request.wrong)]
        keys = self._canonical(rows.live, rows.live.key, wanted)
        gone = removed_from(self._config, store, replace(settings.filter, archived=True))
        away = f"the store has no event of it, and {gone[0]}" if gone else None
        healer = InlineHeal(connection, store, self._version, rows, settings, away, stop, say)
        longest = request.longest_session if request.write else None
        return healer.run(keys, request.streams, longest=longest)

    def application(
        self, request: HealRequest, checkpoint: str, stop: Callable[[], bool]
    ) -> Healed:
        """Of a table that a processor of the application keeps."""
        version, settings, store = self._version, self._settings, self._store
        name, connection = version.projection, self._connection
        if store.inline is None or store.inline.database() != database_of(connection):
            raise Refused(
                f"the application keeps {name} fresh, in another database than its events, so "
                "nobody can say up to which event its rows are made",
                hint=f"Rebuild: esops rebuild {name} --blue-green --no-switch",
            )
        # The application does not forget what is archived.
        filter = replace(settings.filter, archived=True)
        with closing(
            Scratch(connection, store, version, self._definition, settings, filter=filter)
        ) as scratch:
            if not scratch.by_stream:
                raise Refused(
                    f"the rows of {name} are not of one stream each, so that they cannot be made "
                    "again while a processor of the application keeps them",
                    hint=f"Rebuild: esops rebuild {name} --blue-green",
                )
            away = archived_away(self._config, store, scratch, settings, name)
            until = AppCheckpoint(connection, store, checkpoint).position()
            keys = self._keys(scratch, until, request)
            ((table, live),) = scratch.live.items()
            key = scratch.keys[table]
            rows = ServedRows(
                connection,
                (live, scratch.tables[table]),
                key,
                key,
                settings.verify,
                scratch.unwritten(table),
            )
            course = StreamCourse(store, scratch, filter, away)
            processor = StandingProcessor(store, checkpoint, request.processor_stopped)
            healer = AppHealer(connection, version, course, rows, processor, stop)
            return self._done(healer.run(keys, write=request.write), keys, [rows], request)

    def own(self, request: HealRequest, throttle: Throttle, stop: Callable[[], bool]) -> Healed:
        """Of a version that esops keeps. Raises Refused for any other."""
        version, connection, settings = self._version, self._connection, self._settings
        name = version.projection
        if version.position is None or version.lost is not None:
            raise Refused(
                f"v{version.version} of {name} has no checkpoint at which its rows could be made",
                hint=f"Rebuild: esops rebuild {name} --blue-green",
            )
        with closing(
            Scratch(connection, self._store, version, self._definition, settings)
        ) as scratch:
            away = archived_away(self._config, self._store, scratch, settings, name)
            keys = self._keys(scratch, version.position, request)
            first, *_ = scratch.live
            tables = [
                ServedRows(
                    connection,
                    (scratch.live[each], scratch.tables[each]),
                    scratch.keys[each],
                    scratch.keys[first],
                    settings.verify,
                    scratch.unwritten(each),
                )
                for each in scratch.live
            ]
            course: Course = StreamCourse(self._store, scratch, settings.filter, away)
            if not scratch.by_stream:
                wanted = only_keys(scratch, keys)
                course = LogCourse(self._store, scratch, throttle, wanted, stop)
            healer = Healer(connection, self._store, version, scratch, course, tables, stop)
            return self._done(healer.run(keys, write=request.write), keys, tables, request)

    def _done(
        self,
        done: Healed,
        keys: Sequence[RowKey],
        tables: Sequence[ServedRows],
        request: HealRequest,
    ) -> Healed:
        """Note which of the keys that somebody named nobody knows; what a check has found may be
        gone by now.
        """
        if not request.wrong:
            there = [each.there(self._connection, keys) for each in tables]
            done.note_absent(keys, set().union(*there))
        return done

    def _keys(self, scratch: Scratch, until: Position, request: HealRequest) -> list[RowKey]:
        """The chosen keys, each once and in the form in which the server writes its values."""
        name, table = next(iter(scratch.live.items()))
        key = scratch.keys[name]
        wanted = [
            *request.keys,
            *self._of_streams(scratch, until, request.streams),
            *(_shortened(scratch, each, key) for each in request.wrong),
        ]
        return self._canonical(table, key, wanted)

    def _canonical(
        self, table: Table, key: Sequence[str], wanted: Sequence[RowKey]
    ) -> list[RowKey]:
        unlike = next((each for each in wanted if len(each) != len(key)), None)
        if unlike is not None:
            raise UsageError(
                f"the key {', '.join(unlike)} has {len(unlike)} values, and that of {table.name} "
                f"is ({', '.join(key)})",
                hint='Write one of several values as JSON: \'["a", "b"]\'.',
            )
        found, self.no_keys = canonical_keys(self._connection, table, key, wanted)
        return found

    def _of_streams(
        self, scratch: Scratch, until: Position, streams: Sequence[str]
    ) -> Iterable[RowKey]:
        """The keys of the rows that events of some streams change."""
        if not streams:
            return []
        if not isinstance(self._definition, FoldDefinition):
            raise Refused(
                f"only of a fold is it known which rows are of which streams, and "
                f"{self._version.projection} is none",
                hint="Name the keys of the rows: --keys.",
            )
        if scratch.by_stream and not self._store.capabilities.tenants:
            return [scratch.key(StreamKey(each)) for each in streams]
        found = set[RowKey]()
        for each in streams:
            of_stream = replace(scratch.filter, stream=each)
            if scratch.by_stream:
                of_stream = replace(of_stream, types=(), archived=True)
            for batch in self._store.read_all(None, until, of_stream):
                found |= _keys_of(scratch, batch.events)
        return found


def _keys_of(scratch: Scratch, events: Sequence[RecordedEvent]) -> set[RowKey]:
    if scratch.by_stream:
        return {scratch.key(StreamKey(each.stream, each.tenant)) for each in events}
    try:
        return scratch.keys_of(events) if events else set()
    except BadEvent as bad:
        raise Refused(f"the code fails on an event: {bad.reason}") from bad.__cause__


def _is_of(wrong: WrongKey, keys: Iterable[RowKey]) -> bool:
    """Whether a row may be of one of some keys; a table's own key may have more columns."""
    return any(set(each) <= set(wrong.key) for each in keys)


def _shortened(scratch: Scratch, wrong: WrongKey, key: Sequence[str]) -> RowKey:
    """What a row's key has of the columns by which rows are chosen.

    Raises Refused where it lacks one.
    """
    own = dict(zip(scratch.keys[wrong.table], wrong.key, strict=True))
    if not own.keys() >= set(key):
        raise Refused(
            f"rows of {wrong.table} are not known by {', '.join(key)}, so the check's keys do not "
            "say whose rows are wrong",
            hint="Rebuild the projection, with --blue-green.",
        )
    return tuple(own[each] for each in key)
