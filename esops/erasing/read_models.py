"""Personal data in read models: rows that still have it are counted and named, and so is what
clears them. What esops itself has kept of events, such as the error of a dead letter, is erased.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import psycopg
from psycopg import sql

from esops.check import checks
from esops.config import Config
from esops.erasing.spans import NotJson, leaves, scan
from esops.erasing.sweep import Findings
from esops.erasing.traces import Place, Values
from esops.errors import AnotherLog, Busy, EsopsError
from esops.events import Position, StreamKey
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ
from esops.postgres.whole_rows import whole_rows
from esops.readmodel import erased, locks, marks, migrations, registry
from esops.running.refolding import is_keyed_by_stream, refold
from esops.stores.base import EventStore

_PATIENCE_SECONDS = 60.0
_OWN = (
    ("dead_letters", "error"),
    ("rebuilds", "options"),
    ("rebuilds", "verification"),
    ("rebuilds", "reason"),
    ("rebuild_log", "detail"),
    ("checks", "samples"),
    ("checks", "reason"),
)
"""Where esops' own tables may have what was in an event or a row."""
_ERASED = "erased"
_Noted = tuple[str, int]
"""A projection and a version of it."""


@dataclass(frozen=True)
class _Table:
    """A table that a projection writes."""

    projection: str
    version: int | None
    """None where esops does not know its versions."""
    state: str
    schema: str
    name: str

    @property
    def where(self) -> str:
        """Names it in messages."""
        version = "" if self.version is None else f" v{self.version}"
        return f"projection {self.projection}{version}"

    @property
    def remedy(self) -> str:
        """What clears it."""
        if self.version is None:
            return "rebuild it as its application does"
        if self.state == "active":
            # A comparison of rows would show, and keep, how they differ.
            return f"esops rebuild {self.projection} --blue-green --compare counts"
        return f"esops projection retire {self.projection} {self.version}"


@dataclass
class RowsFound:
    """Rows of read models that still have such data."""

    rows: int = 0
    findings: Findings = field(default_factory=Findings)
    versions: dict[_Noted, int] = field(default_factory=dict)
    """How many rows, by projection and version."""
    scanned: set[_Noted] = field(default_factory=set)
    """Those of these in whose rows a value was found now."""


class ReadModels:
    """The read models of a store's projections."""

    def __init__(self, config: Config, store: str) -> None:
        """Nothing is connected to yet."""
        self._config, self._store = config, store

    @cached_property
    def _by_dsn(self) -> dict[str, dict[str, Sequence[str]]]:
        """By database: the projections of the store, also those that the registry knows and
        esops.toml does not name any more, with the tables that esops.toml names.
        """
        config = self._config
        found: dict[str, dict[str, Sequence[str]]] = {
            each.dsn: {} for each in config.readmodels.values()
        }
        own = config.stores[self._store].postgres
        if own is not None:
            found.setdefault(own, {})
        for name, settings in config.projections.items():
            if settings.kind != "server" and config.store(settings.store)[0] == self._store:
                found.setdefault(config.readmodel_of(name).dsn, {})[name] = settings.tables
        for dsn, projections in found.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for version in registry.versions(connection):
                    if version.store == self._store:
                        projections.setdefault(version.projection, ())
        return found

    @property
    def databases(self) -> Collection[str]:
        """Those of the read models, and the store's own."""
        return self._by_dsn.keys()

    @property
    def own(self) -> str | None:
        """The store's own database."""
        return self._config.stores[self._store].postgres

    def folds(self) -> dict[_Noted, str]:
        """The versions whose rows can be folded again from the events of their streams, each with
        the process that follows it, or nothing.
        """
        found = {}
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for version in registry.versions(connection):
                    if (
                        version.projection in projections
                        and version.state in ("building", "standby", "active")
                        and version.position is not None
                        and is_keyed_by_stream(self._config, version)
                    ):
                        key = (version.projection, version.version)
                        holder = locks.holder(connection, locks.version_lock(*key))
                        found[key] = "" if holder is None else holder.process
        return found

    def look(self, values: Values, stop: Callable[[], None], *, noted: bool = True) -> RowsFound:
        """Look for values in all rows, and (`noted`) at what was noted by erasures before."""
        result = RowsFound()
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for table in _tables(connection, projections) if values else ():
                    rows = _rows_with(connection, table, values, stop)
                    if rows:
                        self._count(result, table, rows)
                        if table.version is not None:
                            result.scanned.add((table.projection, table.version))
                names = set(projections)
                known = {
                    (each.projection, each.version): each.state
                    for each in registry.versions(connection)
                }
                for each in erased.noted(connection) if noted else ():
                    key = (each.projection, each.version)
                    if each.projection in names and key not in result.versions:
                        state = known.get(key, "active")
                        table = _Table(*key, state, "", "its rows from before the erasure")
                        self._count(result, table, each.rows)
        return result

    @staticmethod
    def _count(result: RowsFound, table: _Table, rows: int) -> None:
        result.rows += rows
        place = Place(table.where, table.name, f"{rows} rows", table.remedy)
        result.findings.leave(place, rows)
        if table.version is not None:
            key = (table.projection, table.version)
            result.versions[key] = result.versions.get(key, 0) + rows

    def note(self, found: RowsFound, rules: Sequence[str]) -> None:
        """Note the versions that need a rebuild, before their events are masked."""
        for dsn, projections in self._by_dsn.items():
            names = set(projections)
            versions = {key: rows for key, rows in found.versions.items() if key[0] in names}
            if not versions:
                continue
            with translated(), connect(dsn, "erase") as connection:
                migrations.install(connection)
                for (projection, version), rows in versions.items():
                    erased.note(connection, projection, version, rows, rules)

    def clear_own_tables(self, values: Values) -> int:
        """Erase values from what esops has kept itself; returns in how many rows."""
        cleared = 0
        for dsn in self._by_dsn:
            with translated(), connect(dsn, "erase") as connection:
                if not migrations.installed(connection):
                    continue
                erased.forget_samples(connection)
                for table, column in _OWN:
                    if migrations.has(connection, table):
                        cleared += _clear(connection, table, column, values)
                cleared += checks.forget_keys(connection, lambda text: _has(text, values))
        return cleared

    def refold(self, found: RowsFound, streams: Collection[StreamKey]) -> dict[_Noted, str]:
        """Make the rows of the person's streams again, in the versions where that is possible; why
        not, for the others.
        """
        reasons = {}
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                names = set(projections)
                versions = [
                    registry.version(connection, *key) for key in found.versions if key[0] in names
                ]
            for version in versions:
                try:
                    refold(self._config, version, streams)
                except EsopsError as error:
                    reasons[(version.projection, version.version)] = error.message
        return reasons

    def forget(self, found: RowsFound, still: RowsFound, keep: Collection[_Noted]) -> None:
        """Forget the notes of versions whose rows have none of it any more; not those to `keep`."""
        for dsn, projections in self._by_dsn.items():
            names = set(projections)
            with translated(), connect(dsn, "erase") as connection:
                for key in found.versions:
                    if key[0] in names and key not in still.scanned and key not in keep:
                        erased.forget(connection, *key)

    def noted(self) -> set[_Noted]:
        """The versions that were noted by erasures before."""
        found = set()
        for dsn in self._by_dsn:
            with translated(), connect(dsn, "erase", READ) as connection:
                found |= {(each.projection, each.version) for each in erased.noted(connection)}
        return found

    # -- processes that apply events

    def refuse_rebuilds(self) -> None:
        """Raises Busy where a rebuild reads events, which it may have read before they are masked
        and write afterwards.
        """
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for name in projections:
                    holder = locks.holder(connection, locks.rebuild_lock(name))
                    if holder is not None:
                        raise Busy(
                            f"a rebuild of {name} reads the events that are to be masked "
                            f"({holder.process})",
                            hint="Wait until it has ended, or stop it.",
                        )

    def wait_for_followers(self, head: Position | None, stop: Callable[[], None]) -> list[Place]:
        """Wait until all processes that follow a version have applied what was there before it was
        masked: they may have read it already. The places of those that take too long.
        """
        late = []
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for name in projections:
                    for version in registry.versions(connection, name):
                        where = f"projection {name} v{version.version}"
                        if not _reached(connection, version, head, stop):
                            late.append(
                                Place(where, "its rows", "", f"it has not read up to {head} yet")
                            )
        return late

    # -- marks

    def recognised(self, store: EventStore) -> list[tuple[str, str, int]]:
        """The versions whose marks recognise the log before the erasure: by DSN, projection and
        version. Only where marks tell of what is in events.
        """
        if store.identity is None:
            return []
        found = []
        for dsn, projections in self._by_dsn.items():
            with translated(), connect(dsn, "erase", READ) as connection:
                for name in projections:
                    for version in registry.versions(connection, name):
                        if version.state not in ("building", "standby", "active"):
                            continue
                        try:
                            marks.check(connection, store, version)
                        except AnotherLog:
                            continue
                        found.append((dsn, name, version.version))
        return found

    def renew_marks(self, store: EventStore, versions: Sequence[tuple[str, str, int]]) -> None:
        """Make the newest mark of each version again, since events that it names have changed."""
        by_dsn: Mapping[str, list[tuple[str, int]]] = {
            dsn: [(name, number) for of, name, number in versions if of == dsn]
            for dsn, _, _ in versions
        }
        for dsn, wanted in by_dsn.items():
            with translated(), connect(dsn, "erase") as connection:
                for name, number in wanted:
                    with connection.transaction():
                        registry.lock_checkpoint(connection, name, number)
                        version = registry.version(connection, name, number)
                        kept = marks.newest_mark(connection, version)
                        mark = None if kept is None else marks.mark_at(store, kept.position)
                        if kept is not None and mark is not None:
                            marks.keep_mark(connection, version, kept.position, mark)


def _reached(
    connection: psycopg.Connection,
    version: registry.Version,
    head: Position | None,
    stop: Callable[[], None],
) -> bool:
    lock = locks.version_lock(version.projection, version.version)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while head is not None and locks.holder(connection, lock) is not None:
        position = registry.read_position(connection, version.projection, version.version)
        if position is not None and position >= head:
            return True
        if time.monotonic() > deadline:
            return False
        stop()
        time.sleep(0.1)
    return True


def _tables(
    connection: psycopg.Connection, projections: Mapping[str, Sequence[str]]
) -> Iterator[_Table]:
    for name, named_tables in projections.items():
        versions = [
            each
            for each in registry.versions(connection, name)
            if each.state in ("building", "standby", "active")
        ]
        for version in versions:
            for schema, table in version.tables.values():
                if catalog.has_table(connection, schema, table):
                    yield _Table(name, version.version, version.state, schema, table)
        for each in () if versions else named_tables:
            within, table = catalog.parse_name(each)
            schemas = [within] if within else catalog.schemas_with(connection, table)
            if schemas and catalog.has_table(connection, schemas[0], table):
                yield _Table(name, None, "", schemas[0], table)


def _rows_with(
    connection: psycopg.Connection, table: _Table, values: Values, stop: Callable[[], None]
) -> int:
    """How many rows have a value."""
    found = catalog.find_table(connection, table.schema, table.name)
    rows = 0
    for batch in whole_rows(connection, found) if found is not None else ():
        stop()
        rows += sum(
            1
            for row in batch
            if any(next(values.in_document(text, own=False), None) is not None for text in row)
        )
    return rows


def _clear(connection: psycopg.Connection, table: str, column: str, values: Values) -> int:
    name, field_name = sql.Identifier("esops", table), sql.Identifier(column)
    rows = connection.execute(
        sql.SQL("SELECT ctid::text, xmin::text, {0}::text FROM {1} WHERE {0} IS NOT NULL").format(
            field_name, name
        )
    )
    cleared = 0
    for place, state, text in rows.fetchall():
        new: str = _without_values(text, values)
        if new != text:
            cleared += connection.execute(
                sql.SQL("UPDATE {} SET {} = %s WHERE ctid = %s::tid AND xmin::text = %s").format(
                    name, field_name
                ),
                (new, place, state),
            ).rowcount
    return cleared


def _without_values(text: str, values: Values) -> str:
    """A text without the values: in JSON, each text that has one is replaced."""
    try:
        tree = scan(text)
    except NotJson:
        return _ERASED if _has(text, values) else text
    for _, leaf in sorted(leaves(tree), key=lambda each: -each[1].start):
        if leaf.text and _has(leaf.text, values):
            text = text[: leaf.start] + json.dumps(_ERASED) + text[leaf.end :]
    return text


def _has(text: str, values: Values) -> bool:
    return next(values.in_text(text, ""), None) is not None
