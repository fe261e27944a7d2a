"""`esops rebuild NAME --keys …` and `--streams …`: which rows are made right, and by which rules.

A version that esops keeps is healed under its own lock (heal.py); a table that the application
writes in the transaction of each append, row by row among its writers (rebuild/row_repair.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import psycopg
from psycopg import sql

from esops.check.courses import Course, LogCourse, StreamCourse, check_streams, only_keys
from esops.check.heal import Healed, Healer
from esops.check.inline_heal import heal_inline
from esops.check.refold import Scratch, built_by
from esops.check.served_rows import RowKey, ServedRows
from esops.config import Config
from esops.errors import Refused, UsageError
from esops.events import StreamKey
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry
from esops.readmodel.registry import Version
from esops.rebuild.retiring import take_lock
from esops.running.throttle import Limits, Throttle
from esops.stores import open_store

_FREE = Limits()


@dataclass(frozen=True)
class HealRequest:
    """Whose rows to make right: keys as text (of several columns: a tuple), or streams.

    `write`: whether they are written, not only compared.
    """

    keys: Sequence[RowKey] = ()
    streams: Sequence[str] = ()
    limits: Limits = _FREE
    write: bool = True


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
    settings = config.projection(name)
    dsn = config.readmodel_of(name).dsn
    with translated(), connect(dsn, f"heal {name}") as connection:
        take_lock(connection, name)
        version = _serving(connection, name)
        definition = built_by(config, version)
        if settings.live == "inline":
            with open_store(*config.store(store or version.store)) as events:
                named = (request.keys, request.streams)
                return heal_inline(
                    connection,
                    events,
                    version,
                    definition,
                    settings,
                    named,
                    write=request.write,
                    stop=stop,
                )
        if settings.live != "esops":
            raise Refused(
                f'the application writes the table of {name} (live = "{settings.live}")',
                hint="Let esops compare it: esops projection check " + name,
            )
        if version.position is None or version.lost is not None:
            raise Refused(
                f"v{version.version} of {name} has no checkpoint at which its rows could be made",
                hint=f"Rebuild: esops rebuild {name} --blue-green",
            )
        with (
            open_store(*config.store(store or version.store)) as events,
            closing(Throttle(dsn, name, request.limits, stop=stop, say=say)) as throttle,
            closing(Scratch(connection, events, version, definition, settings)) as scratch,
        ):
            keys = _keys(connection, scratch, version, request)
            first, *_ = scratch.live
            tables = [
                ServedRows(
                    connection,
                    (scratch.live[each], scratch.tables[each]),
                    scratch.keys[each],
                    scratch.keys[first],
                    settings.verify,
                )
                for each in scratch.live
            ]
            course: Course = StreamCourse(events, scratch, settings.filter)
            if not scratch.by_stream:
                wanted = only_keys(scratch, definition, keys)
                course = LogCourse(events, scratch, throttle, wanted, stop)
            healer = Healer(connection, events, version, scratch, course, tables, stop)
            return healer.run(keys, write=request.write)


def _serving(connection: psycopg.Connection, name: str) -> Version:
    migrations.upgrade(connection)
    version = registry.active(connection, name)
    if version is None:
        raise UsageError(
            f"no version of {name} serves", hint=f"Build one: esops rebuild {name} --blue-green"
        )
    return version


def _keys(
    connection: psycopg.Connection, scratch: Scratch, version: Version, request: HealRequest
) -> list[RowKey]:
    """The chosen keys, each once and in the form in which the server writes its values."""
    name, table = next(iter(scratch.live.items()))
    key = scratch.keys[name]
    wanted = list(request.keys)
    if request.streams:
        check_streams(scratch, version.projection)
        wanted += [scratch.key(StreamKey(each)) for each in request.streams]
    wrong = next((each for each in wanted if len(each) != len(key)), None)
    if wrong is not None:
        raise UsageError(
            f"the key {', '.join(wrong)} has {len(wrong)} values, and that of {table.name} is "
            f"({', '.join(key)})",
            hint='Write one of several values as JSON: \'["a", "b"]\'.',
        )
    kinds = [table.column(each).type for each in key]
    statement = sql.SQL("SELECT DISTINCT {} FROM unnest({}) AS k({})").format(
        sql.SQL(", ").join(
            sql.SQL("k.{}::{}::text").format(sql.Identifier(f"k{at}"), sql.SQL(kind))
            for at, kind in enumerate(kinds)
        ),
        sql.SQL(", ").join(sql.SQL("%s::text[]") for _ in kinds),
        sql.SQL(", ").join(sql.Identifier(f"k{at}") for at in range(len(kinds))),
    )
    try:
        found = connection.execute(statement, [list(each) for each in zip(*wanted, strict=True)])
        return sorted(found.fetchall())
    except psycopg.DataError as error:
        raise UsageError(
            f"a key does not fit ({', '.join(key)}) of {table.name}: {error.diag.message_primary}"
        ) from None
