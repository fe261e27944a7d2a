"""What a rebuild will do, found out without doing it: the statements word for word, what they cost,
and what to beware of.

Green is made inside a transaction that is rolled back, so that the plan shows what Postgres would
really make of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from esops.archive_format.archived_away import ArchivedAway, removed_from
from esops.config import Config
from esops.errors import Refused, UsageError, nearest
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import database_of, qualified, translated
from esops.projections import kinds
from esops.projections.definition import Definition, SqlDefinition, fingerprint, load_definition
from esops.projections.kinds.sql import EVENTS_A_STATEMENT, explain, range_statement
from esops.readmodel import locks, migrations, registry
from esops.readmodel.after_load import AfterLoad, read_after_load
from esops.readmodel.names import (
    ReadModelName,
    default_schema,
    parse_name,
    physical_tables,
    placeholders,
)
from esops.readmodel.registry import Version
from esops.readmodel.tables import carry_statements, create_statements, not_carried, rolled_back
from esops.rebuild import switch
from esops.rebuild.load import coordinator as shards
from esops.rebuild.load.executors import engine_of
from esops.rebuild.verification import comparison as verify
from esops.running.throttle import Limits
from esops.settings import ProjectionSettings, VerifySettings
from esops.stores.base import EventStore, require

SETTLING = timedelta(seconds=5)
"""Long enough for old holes in the numbers to be judged, so that they do not cut the first, bulky
part of the work short.
"""


@dataclass(frozen=True)
class Options:
    """How a rebuild goes about it; kept in the journal, so that a resumed one goes on in the same
    way.
    """

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
    workers: int | None = None
    """None: one, or as many as the engine has."""
    engine: str | None = None
    """Where shards are worked on; None is this machine."""
    ranges: int | None = None
    """In place: replace the rows in so many parts, and empty nothing."""
    test_only: bool = False
    retire_after: float | None = None
    """Seconds after the switch, from which on `esops run` drops blue."""

    @property
    def limits(self) -> Limits:
        """What the work may take."""
        return Limits(self.max_rate, self.max_load, self.max_lag_bytes, self.nice)

    def as_dict(self) -> dict[str, Any]:
        """For the journal."""
        return {key: value for key, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Target:
    """Everything about one projection that the steps need: its settings, code, store and read
    model.
    """

    name: str
    settings: ProjectionSettings
    definition: Definition
    store_name: str
    dsn: str
    names: tuple[ReadModelName, ...]
    directory: Path
    config: Path

    @property
    def code(self) -> str:
        """The fingerprint of the code that is there now."""
        return fingerprint(self.definition)


@dataclass(frozen=True)
class Plan:
    """What will be done.

    `adopt`: the table that becomes version 1 at the switch, if there is one.
    """

    target: Target
    source: Version | None
    adopt: bool
    to_version: int
    create: Sequence[str]
    after_load: Sequence[AfterLoad]
    drop_now: Sequence[str]
    switch: Sequence[str]
    keys: Mapping[str, tuple[str, ...]]
    """Of each table, by its physical name."""
    compare: verify.Method
    events: int
    counted: bool
    """Whether `events` is a count, and no estimate."""
    head: Position | None
    blue_bytes: int
    installs: Sequence[str]
    explained: Sequence[str] = ()
    """Kind sql: the statement, and how the server would do it."""
    notes: Sequence[str] = field(default_factory=list)

    def lines(self, *, statements: bool = True) -> list[str]:
        """The plan for a person; with every statement, word for word, unless only the summary is
        wanted.
        """
        source = (
            "nothing serves yet" if self.source is None else f"v{self.source.version} serves now"
        )
        if self.adopt:
            names = " and ".join(map(str, self.target.names))
            source = f"{names}, which the application reads now, will be v1 at the switch"
        lines = [
            f"Plan: rebuild {self.target.name} blue-green, as v{self.to_version} ({source})",
            (
                f"  store {self.target.store_name}: {'' if self.counted else 'about '}"
                f"{self.events:,} events up to position {self.head}"
            ),
            f"  green: {', '.join('.'.join(table) for table in self.tables.values())}",
            f"  blue takes {size(self.blue_bytes)}, green will take about as much",
            f"  verification: {self.compare}",
        ]
        if statements:
            lines += ["", "Statements:", *self._statement_lines()]
        if self.notes:
            lines += ["", "Beware:", *(f"  - {note}" for note in self.notes)]
        return lines

    def _statement_lines(self) -> list[str]:
        lines = migrations.plan_lines(self.installs)
        lines += [
            "  -- make green",
            *(f"  {each.strip().removesuffix(';')};" for each in (*self.create, *self.drop_now)),
        ]
        lines += [
            "  -- load, with the checkpoint in esops.versions in the same transactions"
            + ("" if self.explained else ": rows by COPY and INSERT … ON CONFLICT"),
            *(f"  {line}" for line in self.explained),
            "  -- after the load",
            *(f"  {each.statement};" for each in self.after_load),
            *(f"  ANALYZE {qualified(*table).as_string(None)};" for table in self.tables.values()),
            (
                "  -- switch, in one transaction with lock_timeout "
                f"{int(switch.LOCK_TIMEOUT.total_seconds() * 1000)} ms"
            ),
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
                "table": each.table,
                "key": list(self.keys[each.table]) if each.primary else [],
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
            tables=self.tables,
            fingerprint=self.target.code,
            after_load=after_load,
        )

    @property
    def tables(self) -> dict[str, tuple[str, str]]:
        """Green's, by their plain names."""
        return physical_tables(self.target.names, self.to_version)


def resolve(config: Config, name: str, store: str | None, connection: psycopg.Connection) -> Target:
    """Load a projection's code and find its places. Raises UsageError that says what is wrong."""
    settings = config.projection(name)
    store_name, _ = config.store(store or settings.store)
    definition = load_definition(settings, config.directory, f"{config.path}: projections.{name}")
    dsn, names = config.readmodel_of(name).dsn, tuple(names_of(config, name, connection))
    if len({model.name for model in names}) < len(names):
        raise UsageError(
            f"{config.path}: projections.{name}.tables: two tables have the same name in "
            "different schemas"
        )
    return Target(name, settings, definition, store_name, dsn, names, config.directory, config.path)


def names_of(config: Config, name: str, connection: psycopg.Connection) -> list[ReadModelName]:
    """The names by which readers know a projection's tables."""
    with translated():
        schema = default_schema(connection, config.readmodel_of(name).db_schema)
    return [parse_name(each, schema) for each in config.projection(name).tables]


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> Plan:
    """Find out what a rebuild of a projection would do.

    Changes nothing. Raises UsageError or Refused.
    """
    info = store.ping()
    if info.warnings:
        raise Refused(f"store {target.store_name}: {info.warnings[0]}")
    if target.settings.live == "app" and options.switch and not options.test_only:
        _check_hand_over(target, store, connection)
    with translated():
        known, current = known_of(connection, target)
        source = next((each for each in known if each.state == "active"), None)
        adopt = source is None and bool(current)
        if source is None and current:
            source = adopted(connection, target, current)
        blue: dict[str, Table] = {}
        for table_name, physical in (source.tables if source is not None else {}).items():
            table = catalog.find_table(connection, *physical)
            if table is None:
                raise Refused(
                    f"the table {'.'.join(physical)} of v{source.version if source else 0}, which "
                    "should serve, is gone"
                )
            blue[table_name] = table
        to_version = max([each.version for each in known] + [source.version if source else 0]) + 1
        return _try_out(config, target, options, store, connection, source, blue, adopt, to_version)


def known_of(
    connection: psycopg.Connection, target: Target
) -> tuple[list[Version], dict[str, Table]]:
    """The versions of a projection that esops knows, and what is there under the names that readers
    use.
    """
    there = {
        model.name: catalog.find_table(connection, model.schema, model.name)
        for model in target.names
    }
    return registry.versions(connection, target.name), {
        name: table for name, table in there.items() if table is not None
    }


def needs(options: Options) -> str | None:
    """An option that takes esops to apply the events itself."""
    given = {
        "--workers": options.workers is not None,
        "--engine": options.engine is not None,
        "--batch-size": options.batch_size is not None,
        "--max-rate": options.max_rate is not None,
        "--max-load": options.max_load is not None,
        "--max-lag-bytes": options.max_lag_bytes is not None,
        "--nice": options.nice is not None,
    }
    return next((name for name, there in given.items() if there), None)


def _check_hand_over(target: Target, store: EventStore, connection: psycopg.Connection) -> None:
    """Raises Refused where the application could not go on with what is switched to."""
    if target.settings.checkpoint is None:
        raise Refused(
            f'the application keeps {target.name} fresh (live = "app"), and nothing says by which '
            "checkpoint",
            hint='Name it as `esops status` shows it: checkpoint = "…"; or build and verify with '
            "--no-switch.",
        )
    events = store.sql.database() if store.sql is not None else None
    if events != database_of(connection):
        raise Refused(
            f"the application's checkpoint and {target.name} are not in one database: they could "
            "not move in one transaction",
            hint="Build and verify with --no-switch, and switch by hand while the application "
            "stands still.",
        )


def adopted(
    connection: psycopg.Connection, target: Target, current: Mapping[str, Table]
) -> Version:
    """The version 1 that existing tables would become.

    Raises Refused for what cannot be taken over.
    """
    for model in target.names:
        if model.name not in current:
            raise Refused(
                f"there is no table {model}, and the projection's other tables are there",
                hint="Make it, or rename the others: version 1 is all of them or none.",
            )
        if current[model.name].kind not in "rp":
            raise Refused(
                f"{model} is a view (or foreign table) that esops did not make",
                hint="Rename it, or give the projection another table name.",
            )
    rows = connection.execute(
        "SELECT sum(greatest(reltuples, 0))::bigint FROM pg_class WHERE oid = ANY(%s)",
        ([table.oid for table in current.values()],),
    ).fetchone()
    return Version(
        projection=target.name,
        version=1,
        state="active",
        store=target.store_name,
        position=None,
        events=0,
        rows=rows[0] if rows else None,
        tables={name: (table.schema, table.name) for name, table in current.items()},
        fingerprint=None,
    )


def _try_out(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
    source: Version | None,
    blue: Mapping[str, Table],
    adopt: bool,
    to_version: int,
) -> Plan:
    settings, tables = target.settings, physical_tables(target.names, to_version)
    notes = (
        []
        if config.stores[target.store_name].archive
        else [_not_seen(each) for each in removed_from(config, target.store_name)]
    )
    for schema, physical in tables.values():
        if catalog.find_table(connection, schema, physical) is not None:
            raise Refused(
                f"there is a table {schema}.{physical} already, which is no version that "
                "esops knows",
                hint="Look at it, and rename or drop it.",
            )
    ddl = config.directory / settings.ddl if settings.ddl is not None else None
    create = create_statements(target.names, tables, blue, ddl)
    for each in blue.values():
        notes += [f"not carried over from blue: {lost}" for lost in not_carried(connection, each)]
    kinds.of_one_database(target.definition, store, connection)
    if options.engine is not None:
        engine_of(options.engine).close()
    shards.check(
        target.definition, store, sharded=options.engine is not None or (options.workers or 1) > 1
    )
    head = store.head(SETTLING).position
    with rolled_back(connection):
        greens, after_load, drop_now = _make(connection, target, tables, create, blue, ddl)
        kinds.check(target.definition, list(greens.values()), conjoined=store.capabilities.tenants)
        version = Version(
            target.name, to_version, "building", target.store_name, None, 0, 0, tables, None
        )
        explained = _explained(connection, target, store, head, tables)
        pointed = switch.statements(connection, target.names, settings.switch, source, version)
    notes += _column_notes(blue, greens, settings.verify)
    compare = _method(options, blue, greens)
    if settings.live == "app" and options.switch and not options.test_only:
        notes.append(
            f"the application's checkpoint {settings.checkpoint} is set to green's position at the "
            "switch; its projector must stand "
            "still by then (hooks.before_switch can stop it, hooks.after_switch start it), else "
            "the switch is refused"
        )
    if not options.switch:
        notes.append("--no-switch: green is built and verified, and stands by")
        pointed = []
    if source is not None and source.position is None:
        notes.append(
            f"v{source.version} has no checkpoint of esops: it is compared as it stands, and "
            "rollback to it must be forced"
        )
    elif (
        source is not None
        and locks.holder(connection, locks.version_lock(target.name, source.version)) is None
    ):
        notes.append(
            f"nobody keeps v{source.version} fresh at the moment (`esops run` does): a rollback "
            "would need that first"
        )
    return Plan(
        target=target,
        source=source,
        adopt=adopt,
        to_version=to_version,
        create=create,
        after_load=after_load,
        drop_now=drop_now,
        switch=pointed,
        keys={table.name: table.key for table in greens.values()},
        compare=compare,
        events=store.count_between(None, head) if head is not None else 0,
        counted=store.capabilities.count_between,
        head=head,
        blue_bytes=sum(bytes_of(connection, table) for table in blue.values()),
        explained=explained,
        installs=migrations.plan(connection),
        notes=notes,
    )


def _make(
    connection: psycopg.Connection,
    target: Target,
    tables: Mapping[str, tuple[str, str]],
    create: list[str],
    blue: Mapping[str, Table],
    ddl: Path | None,
) -> tuple[dict[str, Table], list[AfterLoad], list[str]]:
    """Make green; adds to `create` what it gets of blue.

    Returns its tables, what is built after the load, and what is dropped for it.
    """
    greens: dict[str, Table] = {}
    after_load: list[AfterLoad] = []
    drop_now: list[str] = []
    try:
        for statement in create:
            connection.execute(statement.encode())
    except (
        psycopg.errors.SyntaxError,
        psycopg.errors.UndefinedObject,
        psycopg.errors.DuplicateTable,
    ) as error:
        raise UsageError(
            f"green's DDL fails: {str(error).splitlines()[0]}", hint=f"Look at {ddl}."
        ) from error
    for mark, (name, (schema, physical)) in zip(
        placeholders(target.names), tables.items(), strict=True
    ):
        green = catalog.find_table(connection, schema, physical)
        if green is None:
            raise UsageError(
                f"green's DDL makes no table {physical}",
                hint=f"Write CREATE TABLE {mark} (…) in {ddl}.",
            )
        if name in blue:
            carried = carry_statements(connection, blue[name], qualified(schema, physical))
            for statement in carried:
                connection.execute(statement.encode())
            create += carried
        greens[name] = green
        later, now = read_after_load(connection, green)
        after_load += later
        drop_now += now
    return greens, after_load, drop_now


def _explained(
    connection: psycopg.Connection,
    target: Target,
    store: EventStore,
    head: Position | None,
    tables: Mapping[str, tuple[str, str]],
) -> list[str]:
    if not isinstance(target.definition, SqlDefinition) or head is None:
        return []
    first = require(store, store.sql, "sql").range(None, head, EVENTS_A_STATEMENT)
    text = range_statement(target.definition, tables, first)
    return [*text.splitlines(), *(f"-- {line}" for line in explain(connection, text))]


def _method(
    options: Options, blue: Mapping[str, Table], green: Mapping[str, Table]
) -> verify.Method:
    pairs = [(blue[name], table) for name, table in green.items() if name in blue]
    if not pairs:
        return "none"
    if options.compare is None:
        return "exact" if all(switch.same_columns(*pair) for pair in pairs) else "columns"
    methods: tuple[verify.Method, ...] = ("exact", "columns", "sample", "counts", "none")
    for method in methods:
        if options.compare == method:
            if method == "exact" and any(
                {c.name for c in b.columns} != {c.name for c in g.columns} for b, g in pairs
            ):
                raise UsageError(
                    "--compare exact is not possible: the columns change",
                    hint="Use --compare columns.",
                )
            return method
    raise UsageError(
        f"there is no comparison {options.compare!r}", hint=nearest(options.compare, methods)
    )


def _not_seen(archived: ArchivedAway) -> str:
    return (
        f'{archived} and are not seen; archive = "{archived.archive}" on the store reads them too'
    )


def _column_notes(
    blue: Mapping[str, Table], green: Mapping[str, Table], settings: VerifySettings
) -> list[str]:
    there_are = [column.name for table in green.values() for column in table.columns]
    for what, names in (("ignore", settings.ignore), ("expected", settings.expected)):
        if unknown := [name for name in names if name not in there_are]:
            raise UsageError(
                f"verify.{what} names a column {unknown[0]!r} that green has not",
                hint=nearest(unknown[0], there_are),
            )
    return [
        note
        for name, table in green.items()
        if name in blue
        for note in _changes(blue[name], table)
    ]


def _changes(blue: Table, green: Table) -> list[str]:
    if switch.same_columns(blue, green):
        return []
    before, after = {c.name: c.type for c in blue.columns}, {c.name: c.type for c in green.columns}
    changes = [f"new column {name}" for name in after if name not in before]
    changes += [f"column {name} goes" for name in before if name not in after]
    changes += [
        f"column {name} becomes {after[name]}"
        for name in after
        if name in before and before[name] != after[name]
    ]
    return [
        "columns change ("
        + (", ".join(changes) or "their order")
        + "): a prepared SELECT * of the application fails once after the switch, then works"
    ]


def bytes_of(connection: psycopg.Connection, table: Table) -> int:
    """What a table takes with its indexes."""
    row = connection.execute(
        "SELECT pg_total_relation_size(%s::oid::regclass)", (table.oid,)
    ).fetchone()
    return int(row[0]) if row else 0


def size(count: int) -> str:
    """Bytes as a person says them."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1024:
            return f"{value:,.0f} {unit}"
        value /= 1024
    return f"{value:,.1f} TB"
