"""What a rebuild will do, found out without doing it: the statements word for word, what they cost, and what to beware of.

Green is made inside a transaction that is rolled back, so that the plan shows what Postgres would really make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import psycopg

from esops.backends.archive.elsewhere import Elsewhere, removed_from
from esops.backends.base import EventStore
from esops.backends.postgres import catalog
from esops.backends.postgres.catalog import Table
from esops.backends.postgres.connect import qualified, translated
from esops.config import Config
from esops.errors import Refused, UsageError, nearest
from esops.events import EventFilter, Position
from esops.projections import locks, readmodel, registry
from esops.projections.control import Limits
from esops.projections.definition import FoldDefinition, fingerprint, load_definition
from esops.projections.fold import check_key
from esops.projections.readmodel import Plain
from esops.projections.registry import Version
from esops.rebuild import switch, verify
from esops.settings import ProjectionSettings

SETTLING = timedelta(seconds=5)
"""Long enough for old holes in the numbers to be judged, so that they do not cut the first, bulky part of the work short."""


@dataclass(frozen=True)
class Options:
    """How a rebuild goes about it; kept in the journal, so that a resumed one goes on in the same way."""

    switch: bool = True
    switch_lag: int = 100
    max_diff: str = "0"
    compare: str | None = None
    batch_size: int | None = None
    max_rate: float | None = None
    max_load: int | None = None
    max_lag_bytes: int | None = None
    nice: float | None = None
    postpone: bool = False

    @property
    def limits(self) -> Limits:
        """What the work may take."""
        return Limits(self.max_rate, self.max_load, self.max_lag_bytes, self.nice)

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Target:
    """Everything about one projection that the steps need: its settings, code, store and read model."""

    name: str
    settings: ProjectionSettings
    definition: FoldDefinition
    store_name: str
    dsn: str
    schema: str
    plain: Plain
    filter: EventFilter

    @property
    def code(self) -> str:
        """The fingerprint of the code that is there now."""
        return fingerprint(self.definition)


@dataclass(frozen=True)
class Plan:
    """What will be done. `adopt`: the table that becomes version 1 at the switch, if there is one."""

    target: Target
    source: Version | None
    adopt: bool
    to_version: int
    physical: str
    create: Sequence[str]
    after_load: Sequence[readmodel.AfterLoad]
    drop_now: Sequence[str]
    switch: Sequence[str]
    key: tuple[str, ...]
    compare: verify.Method
    events: int
    counted: bool
    """Whether `events` is a count, and no estimate."""
    head: Position | None
    blue_bytes: int
    installs: bool
    notes: Sequence[str] = field(default_factory=list)

    def lines(self, *, statements: bool = True) -> list[str]:
        """The plan for a person; with every statement, word for word, unless only the summary is wanted."""
        source = "nothing serves yet" if self.source is None else f"v{self.source.version} serves now"
        if self.adopt:
            source = f"the table {self.target.plain} serves now and becomes v1 at the switch"
        lines = [
            f"Plan: rebuild {self.target.name} blue-green, as v{self.to_version} ({source})",
            f"  store {self.target.store_name}: {'' if self.counted else 'about '}{self.events:,} events up to position {self.head}",
            f"  green: {self.target.schema}.{self.physical}; blue takes {size(self.blue_bytes)}, green will take about as much",
            f"  verification: {self.compare}",
        ]
        if statements:
            lines += ["", "Statements:", *self._statement_lines()]
        if self.notes:
            lines += ["", "Beware:", *(f"  - {note}" for note in self.notes)]
        return lines

    def _statement_lines(self) -> list[str]:
        lines: list[str] = []
        if self.installs:
            lines += ["  -- once, for esops' own tables", *(f"  {line}" for line in registry.SCHEMA_SQL.splitlines())]
        lines += ["  -- make green", *(f"  {each.strip().removesuffix(';')};" for each in (*self.create, *self.drop_now))]
        lines += [
            "  -- load: rows by COPY and INSERT … ON CONFLICT, each with the checkpoint in esops.versions in one transaction",
            "  -- after the load",
            *(f"  {each.statement};" for each in self.after_load),
            f"  ANALYZE {self._green()};",
            f"  -- switch, in one transaction with lock_timeout {int(switch.LOCK_TIMEOUT.total_seconds() * 1000)} ms",
            *(f"  {each};" for each in self.switch),
        ]
        return lines

    def version(self) -> Version:
        """The version that will be built, as the registry keeps it."""
        after_load = tuple(
            {
                "what": each.what,
                "statement": each.statement,
                "primary": each.primary,
                "key": list(self.key) if each.primary else [],
            }
            for each in self.after_load
        )
        return Version(
            projection=self.target.name,
            version=self.to_version,
            state="building",
            store=self.target.store_name,
            position=None,
            events=0,
            rows=0,
            tables={self.target.plain.name: (self.target.plain.schema, self.physical)},
            fingerprint=self.target.code,
            after_load=after_load,
        )

    def _green(self) -> str:
        return qualified(self.target.plain.schema, self.physical).as_string(None)


def resolve(config: Config, name: str, store: str | None, connection: psycopg.Connection) -> Target:
    """Load a projection's code and find its places. Raises UsageError that says what is wrong."""
    settings = config.projection(name)
    store_name, _ = config.store(store or settings.store)
    definition = load_definition(settings.python, config.directory, f"{config.path}: projections.{name}.python")
    read_model = config.readmodel_of(name)
    with translated():
        schema = readmodel.default_schema(connection, read_model.db_schema)
    plain = readmodel.parse_name(settings.tables[0], schema)
    return Target(
        name,
        settings,
        definition,
        store_name,
        read_model.dsn,
        plain.schema,
        plain,
        settings.filter,
    )


def make_plan(config: Config, target: Target, options: Options, store: EventStore, connection: psycopg.Connection) -> Plan:
    """Find out what a rebuild of a projection would do. Changes nothing. Raises UsageError or Refused."""
    info = store.ping()
    if info.warnings:
        raise Refused(f"store {target.store_name}: {info.warnings[0]}")
    if target.settings.live == "app" and options.switch:
        raise Refused(
            f'the application keeps {target.name} fresh (live = "app"), and handing over to it is not possible yet',
            hint='Build and verify with --no-switch, or let `esops run` keep it fresh with live = "esops".',
        )
    plain = target.plain
    with translated():
        current = catalog.find_table(connection, plain.schema, plain.name)
        known = registry.versions(connection, target.name)
        source = next((each for each in known if each.state == "active"), None)
        adopt = source is None and current is not None
        if current is not None and source is None:
            source = adopted(connection, target, current)
        blue = catalog.find_table(connection, *source.table) if source is not None else None
        if source is not None and blue is None:
            raise Refused(f"the table {'.'.join(source.table)} of v{source.version}, which should serve, is gone")
        to_version = max([each.version for each in known] + [source.version if source else 0]) + 1
        return _try_out(config, target, options, store, connection, source, blue, adopt, to_version)


def adopted(connection: psycopg.Connection, target: Target, current: Table) -> Version:
    """The version 1 that an existing table would become. Raises Refused for what cannot be taken over."""
    if current.kind not in "rp":
        raise Refused(
            f"{target.plain} is a view (or foreign table) that esops did not make",
            hint="Rename it, or give the projection another table name.",
        )
    rows = connection.execute("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %s", (current.oid,)).fetchone()
    return Version(
        projection=target.name,
        version=1,
        state="active",
        store=target.store_name,
        position=None,
        events=0,
        rows=rows[0] if rows else None,
        tables={target.plain.name: (current.schema, current.name)},
        fingerprint=None,
    )


def _try_out(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
    source: Version | None,
    blue: Table | None,
    adopt: bool,
    to_version: int,
) -> Plan:
    plain, settings = target.plain, target.settings
    physical = readmodel.physical_name(plain.name, to_version)
    notes = (
        []
        if config.stores[target.store_name].archive
        else [_not_seen(each) for each in removed_from(config, target.store_name)]
    )
    if catalog.find_table(connection, plain.schema, physical) is not None:
        raise Refused(
            f"there is a table {plain.schema}.{physical} already, which is no version that esops knows",
            hint="Look at it, and rename or drop it.",
        )
    ddl = config.directory / settings.ddl if settings.ddl is not None else None
    create = [readmodel.create_statement(plain, physical, blue, ddl)]
    lost = readmodel.not_carried(connection, blue) if blue is not None else []
    notes += [f"not carried over from blue: {each}" for each in lost]
    with readmodel.rolled_back(connection):
        try:
            connection.execute(create[0].encode())
        except (psycopg.errors.SyntaxError, psycopg.errors.UndefinedObject, psycopg.errors.DuplicateTable) as error:
            raise UsageError(f"green's DDL fails: {str(error).splitlines()[0]}", hint=f"Look at {ddl}.") from error
        green = catalog.find_table(connection, plain.schema, physical)
        if green is None:
            raise UsageError(f"green's DDL makes no table {physical}", hint=f"Write CREATE TABLE {{table}} (…) in {ddl}.")
        if blue is not None:
            create += readmodel.carry_statements(connection, blue, qualified(plain.schema, physical))
            for statement in create[1:]:
                connection.execute(statement.encode())
        check_key(target.definition, green, green.key, conjoined=store.capabilities.tenants)
        after_load, drop_now = readmodel.read_after_load(connection, green)
        version = Version(
            target.name, to_version, "building", target.store_name, None, 0, 0, {plain.name: (plain.schema, physical)}, None
        )
        pointed = switch.statements(connection, plain, settings.switch, green, source, version)
    notes += _column_notes(blue, green, settings.verify.ignore)
    compare = _method(options, blue, green)
    if not options.switch:
        notes.append("--no-switch: green is built and verified, and stands by")
        pointed = []
    if source is not None and source.position is None:
        notes.append(
            f"v{source.version} has no checkpoint of esops: it is compared as it stands, and rollback to it must be forced"
        )
    elif source is not None and locks.holder(connection, locks.version_lock(target.name, source.version)) is None:
        notes.append(f"nobody keeps v{source.version} fresh at the moment (`esops run` does): a rollback would need that first")
    head = store.head(SETTLING)
    return Plan(
        target=target,
        source=source,
        adopt=adopt,
        to_version=to_version,
        physical=physical,
        create=create,
        after_load=after_load,
        drop_now=drop_now,
        switch=pointed,
        key=green.key,
        compare=compare,
        events=store.count_between(None, head) if head is not None else 0,
        counted=store.capabilities.count_between,
        head=head,
        blue_bytes=_bytes(connection, blue),
        installs=not registry.installed(connection),
        notes=notes,
    )


def _method(options: Options, blue: Table | None, green: Table) -> verify.Method:
    if blue is None:
        return "none"
    if options.compare is None:
        return "exact" if switch.same_columns(blue, green) else "columns"
    methods: tuple[verify.Method, ...] = ("exact", "columns", "counts", "none")
    for method in methods:
        if options.compare == method:
            if method == "exact" and {c.name for c in blue.columns} != {c.name for c in green.columns}:
                raise UsageError("--compare exact is not possible: the columns change", hint="Use --compare columns.")
            return method
    raise UsageError(f"there is no comparison {options.compare!r}", hint=nearest(options.compare, methods))


def _not_seen(archived: Elsewhere) -> str:
    return f'{archived} and are not seen; archive = "{archived.archive}" on the store reads them too'


def _column_notes(blue: Table | None, green: Table, ignore: Sequence[str]) -> list[str]:
    unknown = [name for name in ignore if not green.has(name)]
    if unknown:
        raise UsageError(
            f"verify.ignore names a column {unknown[0]!r} that green has not",
            hint=nearest(unknown[0], [column.name for column in green.columns]),
        )
    if blue is None or switch.same_columns(blue, green):
        return []
    before, after = {c.name: c.type for c in blue.columns}, {c.name: c.type for c in green.columns}
    changes = [f"new column {name}" for name in after if name not in before]
    changes += [f"column {name} goes" for name in before if name not in after]
    changes += [f"column {name} becomes {after[name]}" for name in after if name in before and before[name] != after[name]]
    return [
        "columns change ("
        + (", ".join(changes) or "their order")
        + "): a prepared SELECT * of the application fails once after the switch, then works"
    ]


def _bytes(connection: psycopg.Connection, table: Table | None) -> int:
    if table is None:
        return 0
    row = connection.execute("SELECT pg_total_relation_size(%s::oid::regclass)", (table.oid,)).fetchone()
    return int(row[0]) if row else 0


def size(count: int) -> str:
    """Bytes as a person says them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"
