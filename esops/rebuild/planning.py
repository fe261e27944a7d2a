"""Finds out what a rebuild would do, without doing it.

Green is created inside a transaction that is rolled back, so that the plan shows what Postgres
would really make of the statements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from esops.config import Config
from esops.errors import Refused, UsageError, nearest
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import translated
from esops.projections import kinds
from esops.projections.definition import SqlDefinition
from esops.projections.kinds.sql import EVENTS_A_STATEMENT, explain, not_left_out, range_statement
from esops.readmodel import migrations
from esops.readmodel.composition import Composition, composition
from esops.readmodel.names import physical_tables
from esops.readmodel.properties import is_unlogged
from esops.readmodel.registry import Version
from esops.readmodel.tables import create_statements
from esops.rebuild import (
    guards,
    hand_over,
    inline_limits,
    inline_switch,
    moved_aside,
    plan_notes,
    reading_roles,
    shortened,
    switch,
    tried,
)
from esops.rebuild.blockers import blockers, of_prepared
from esops.rebuild.blue import Blue, bytes_of, find_blue
from esops.rebuild.green import Green, create_green
from esops.rebuild.left_behind import refuse
from esops.rebuild.load import measuring
from esops.rebuild.load.executors import engine_of
from esops.rebuild.load.measuring import Workers
from esops.rebuild.load.sharding import blurred, check_keys, check_shardable
from esops.rebuild.options import SETTLING, Options
from esops.rebuild.plan import RebuildPlan
from esops.rebuild.short_tries import LOOKING, Tries, in_short_tries, to_make
from esops.rebuild.switch import Switch
from esops.rebuild.target import Target
from esops.rebuild.verification.result import METHODS, Method
from esops.stores.base import EventStore, require

_STILL = timedelta(seconds=10)
"""How long the rest of a plan may keep a try waiting: it also asks the store."""


@dataclass(frozen=True)
class _Draft:
    """What was created for green in a transaction that was rolled back."""

    green: Green
    explained: Sequence[str]
    switch: Sequence[str]
    notes: Sequence[str]
    """What goes with the switch, or stands against a later one."""
    serving_has: Mapping[str, Composition]


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> RebuildPlan:
    """The plan of a rebuild. Changes nothing.

    Raises UsageError or Refused where the rebuild cannot be done.
    """
    _check_well(store)
    # All events are looked through for it, while the rest of the plan is made.
    with translated(), store.losses.ask_shortened(target.settings.filter) as late:
        handed_over = (
            hand_over.check(target.application, store, connection)
            if options.ends_with_switch
            else []
        )
        blue = find_blue(config, connection, target)
        guards.check_log(connection, store, blue.source)
        _check_possible(target, options, store, connection, blue)
        guarded = _guarded(config, target, options, store, connection)
        head = store.head(SETTLING).position
        # Created and rolled back in one transaction: nobody else ever sees it.
        draft = _try_out(target, options, store, connection, blue, head)
        events, between = counted_events(store, head)
        workers = _workers(target, options, store, draft.green.tables, (head, events))
        unlike = plan_notes.of_unlike_rows(connection, store, blue.source)
        guarded += shortened.check(store, target.name, target.settings, options, late)
        return RebuildPlan(
            target=target,
            source=blue.source,
            adopt=blue.adopt,
            to_version=blue.to_version,
            create=draft.green.create,
            after_load=draft.green.after_load,
            drop_now=draft.green.drop_now,
            switch=draft.switch,
            keys={table.name: table.key for table in draft.green.tables.values()},
            compare=_method(options, blue, draft.green.tables, unlike=bool(unlike)),
            events=events,
            events_range=between,
            counted=store.capabilities.count_between,
            head=head,
            blue_bytes=sum(bytes_of(connection, table) for table in blue.tables.values()),
            workers=workers,
            explained=draft.explained,
            serving_has=draft.serving_has,
            installs=migrations.plan(connection),
            notes=[
                *handed_over,
                *guarded,
                *plan_notes.of_floor(target, store, head),
                *unlike,
                *_of_tables(connection, target, options, blue, draft),
            ],
        )


def _check_well(store: EventStore) -> None:
    """Raises Refused where the store warns of anything."""
    info = store.ping()
    if info.warnings:
        raise Refused(f"store {store.name}: {info.warnings[0]}")


def _guarded(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> list[str]:
    """What a plan says of events that would be missing, and of who writes the read model. Raises
    Refused where the operator has not accepted that.
    """
    written = guards.check_written_inline(connection, store, target, options)
    of_inline = guards.check_inline(
        connection, store, target, ends_with_switch=options.ends_with_switch
    )
    away = guards.check_archive(config, target, store, without=options.without_archived)
    if not options.accept_fewer:
        away += guards.check_names(target, store)
    return [*of_inline, *written, *away]


def _of_tables(
    connection: psycopg.Connection, target: Target, options: Options, blue: Blue, draft: _Draft
) -> list[str]:
    """What a plan says of the tables that serve and of those that will, and of the way back."""
    tables = draft.green.tables
    return [
        *plan_notes.of_blue(connection, target, blue.tables, blue.to_version),
        *moved_aside.notes(blue.source, target.names, blue.to_version, target.settings.switch),
        *plan_notes.of_view(connection, target),
        *plan_notes.of_columns(blue.tables, tables, target.settings.verify),
        *draft.notes,
        *plan_notes.of_parts(target, tables.values(), "process" if options.sharded else None),
        *plan_notes.of_end(target, options),
        *plan_notes.of_rollback(connection, target, blue.source),
    ]


def _workers(
    target: Target,
    options: Options,
    store: EventStore,
    green: Mapping[str, Table],
    upto: tuple[Position | None, int],
) -> Workers | None:
    """How many processes a load is worth, where the operator left that to esops; `upto` is the
    head, and how many events there are up to it.
    """
    found = measuring.for_plan(options, target.definition, store, target.settings.filter, upto)
    if found is None or found.number == 1:
        return found
    reasons = (blurred(store, table, table.key) for table in green.values())
    why = next(filter(None, reasons), None)
    return found if why is None else Workers(1, why)


def counted_events(store: EventStore, head: Position | None) -> tuple[int, tuple[int, int]]:
    """How many events a store has up to its head, and at least and at most."""
    events = store.counts.between(None, head)
    if store.capabilities.count_between:
        return events, (events, events)
    return events, store.counts.bounds(None, head)


def _check_possible(
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
    blue: Blue,
) -> None:
    """Raises what stands against the rebuild and shows before green is created."""
    for schema, physical in physical_tables(target.names, blue.to_version).values():
        if catalog.has_table(connection, schema, physical):
            raise Refused(
                f"a table {schema}.{physical} exists already, but esops knows no such version",
                hint="Look at it, and rename or drop it.",
            )
    kinds.of_one_database(target.definition, store, connection)
    guards.check_spill(target)
    if options.engine is not None:
        engine_of(options.engine).close()  # raises where the cluster cannot be reached
    if options.sharded:
        check_shardable(target.definition, store, "--workers and --engine")


def _try_out(
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
    blue: Blue,
    head: Position | None,
) -> _Draft:
    ddl = target.directory / target.settings.ddl if target.settings.ddl is not None else None
    sides = blue.sides
    create = create_statements(connection, target.names, blue.to_version, sides, ddl)

    def draft() -> _Draft:
        # Before green is made: what blue gets from here on has changed since.
        has = {name: composition(connection, table.oid) for name, table in blue.tables.items()}
        made = create_green(connection, target, blue.to_version, create, sides, ddl)
        kinds.check(
            target.definition, list(made.tables.values()), conjoined=store.capabilities.tenants
        )
        if options.sharded:
            for table in made.tables.values():
                check_keys(store, table, table.key, "--workers and --engine")
        # The switch's statements depend on the catalogue with green in it, so they are made here.
        more = _with_green(target, options, store, connection, (blue, made), head)
        explained, pointed, notes = more
        return _Draft(made, explained, pointed, [*made.notes, *notes], has)

    like = [(each.schema, each.name) for each in blue.tables.values()]
    tries = Tries(
        "making green for the plan", to_make(create, like), patience=LOOKING, still=_STILL
    )
    return in_short_tries(connection, draft, tries, rolled_back=True)


def _with_green(
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
    both: tuple[Blue, Green],
    head: Position | None,
) -> tuple[list[str], Sequence[str], list[str]]:
    """What depends on the catalogue with green in it: the first statement of kind sql, explained;
    the switch's statements; and what to know.
    """
    blue, made = both
    tables = physical_tables(target.names, blue.to_version)
    green = Version(
        target.name, blue.to_version, "building", target.store_name, None, 0, 0, tables, None
    )
    roles = target.settings.grant_select_to
    what = Switch(target.names, target.settings.switch, blue.source, green, grant_select_to=roles)
    pointed, notes = _pointed(connection, target, what, options)
    if target.settings.live == "inline" and pointed:
        pointed = [inline_switch.lock_statement(connection, what), *pointed]
    explained, taken = _explained(connection, target, store, head, tables)
    logged = [each for each in made.tables.values() if not is_unlogged(connection, each)]
    notes += taken
    if blue.source is None and what.mode != "hook":
        notes += reading_roles.notes(connection, target.names, roles)
    notes += plan_notes.of_replication(connection, logged, switches=options.ends_with_switch)
    notes += plan_notes.of_foreign_keys(connection, blue.tables, made.tables)
    return explained, pointed, notes


def _pointed(
    connection: psycopg.Connection, target: Target, what: Switch, options: Options
) -> tuple[Sequence[str], list[str]]:
    """The switch's statements, and what to know of them.

    Raises Refused only if this rebuild is to switch: a later switch looks again.
    """
    inline = target.settings.live == "inline"
    known: list[str] = []
    try:
        if inline:
            known += inline_limits.notes(connection, what, target.settings.verify)
            inline_limits.check(connection, what)
        prepared = switch.prepare(connection, what)
        roots = prepared.roots
        refuse(roots, tried.obstacles(connection, roots) if roots else [])
    except Refused as refused:
        if options.ends_with_switch and not (inline and options.postpone):
            raise
        known.append(f"a later switch would be refused: {refused.message}. {refused.hint or ''}")
        return (), known
    if not options.ends_with_switch:
        return (), known
    old_rows = switch.left_stale(connection, what)
    locked = [name.identifier.as_string(connection) for name in what.names]
    waits = of_prepared(blockers(connection, [*locked, *prepared.carried.relations]))
    return prepared.statements, [*known, *prepared.carried.notes(), *old_rows, *waits]


def _explained(
    connection: psycopg.Connection,
    target: Target,
    store: EventStore,
    head: Position | None,
    tables: Mapping[str, tuple[str, str]],
) -> tuple[list[str], list[str]]:
    """Kind sql: the statement for the first range of events with the server's plan for it, and what
    it should leave out.
    """
    if not isinstance(target.definition, SqlDefinition) or head is None:
        return [], []
    first = require(store, store.sql, "sql").range(None, head, EVENTS_A_STATEMENT)
    text = range_statement(target.definition, tables, first)
    plan = [f"-- {line}" for line in explain(connection, text, first)]
    return [*text.splitlines(), *plan], not_left_out(target.definition, first)


def _method(options: Options, blue: Blue, green: Mapping[str, Table], *, unlike: bool) -> Method:
    """How green is compared: as asked for, or as strictly as the columns allow. `unlike`: blue's
    rows cannot be those of these events.
    """
    pairs = [(blue.tables[name], table) for name, table in green.items() if name in blue.tables]
    if not pairs or (unlike and options.compare is None):
        return "none"
    # Exact unless the columns differ; then only those that both have can be compared.
    if options.compare is None:
        types = [[[(c.name, c.type) for c in each.columns] for each in pair] for pair in pairs]
        return "exact" if all(before == after for before, after in types) else "columns"
    method = method_of(options.compare)
    if method == "exact" and any(
        {c.name for c in b.columns} != {c.name for c in g.columns} for b, g in pairs
    ):
        raise UsageError(
            "--compare exact is not possible: the columns change", hint="Use --compare columns."
        )
    return method


def method_of(text: str) -> Method:
    """Read `--compare`. Raises UsageError for an unknown method."""
    for method in METHODS:
        if text == method:
            return method
    raise UsageError(f"unknown comparison {text!r} (--compare)", hint=nearest(text, METHODS))
