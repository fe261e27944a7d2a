"""What a rebuild in place will do, and what to know before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from esops.config import Config
from esops.errors import Refused
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import translated
from esops.projections import kinds
from esops.readmodel import read_as, registry, served
from esops.readmodel.registry import Version
from esops.rebuild import guards, plan_notes, shortened
from esops.rebuild.blue import versions_and_tables
from esops.rebuild.load.sharding import check_keys, check_shardable
from esops.rebuild.options import SETTLING, Options
from esops.rebuild.planning import counted_events
from esops.rebuild.target import Target
from esops.stores.base import EventStore
from esops.wording import about, count


@dataclass(frozen=True)
class InPlacePlan:
    """The plan of a rebuild in place. With `ranges` it empties nothing."""

    projection: str
    tables: Sequence[str]
    ranges: int | None
    events: int
    events_range: tuple[int, int]
    """How many these are at least and at most."""
    counted: bool
    """Whether `events` is a count; otherwise it is an estimate."""
    notes: Sequence[str] = ()
    """What to know before, beside what is true of every rebuild in place."""

    def lines(self, *, statements: bool = True) -> list[str]:  # noqa: ARG002 - as other plans; there are few
        """The plan for a person."""
        events = about(self.events, self.events_range, counted=self.counted)
        tables = ", ".join(self.tables)
        others = (
            "  - `esops run` must not run for this projection until then; writers of events are "
            "not affected"
        )
        more = [f"  - {note}" for note in self.notes]
        # The two differ in what readers see while it runs: empty tables, or rows of two codes.
        if self.ranges is None:
            return [
                f"Plan: rebuild {self.projection} in place",
                f"  TRUNCATE {tables}, then read {events} and fill it again",
                "",
                "Note:",
                (
                    "  - until it is done, readers see the tables empty and then filling; there is "
                    "no way back"
                ),
                others,
                *more,
            ]
        return [
            f"Plan: rebuild {self.projection} in place, in {count(self.ranges, 'range')} of keys",
            f"  read {events}, range by range. For each range, one transaction changes the rows of",
            f"  {tables} that differ, with DELETE and INSERT … ON CONFLICT DO UPDATE",
            "",
            "Note:",
            (
                "  - until it is done, some rows are made by the old code and some by the "
                "new; there is no way back"
            ),
            others,
            *more,
        ]

    def as_dict(self) -> dict[str, Any]:
        """The plan for a program, under the documented field names."""
        return {
            "projection": self.projection,
            "in_place": True,
            "ranges": self.ranges,
            "tables": list(self.tables),
            "events": self.events,
            "events_range": list(self.events_range),
            "notes": list(self.notes),
        }


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> InPlacePlan:
    """The plan. Changes nothing.

    Raises Refused where rows would be lost; what else it needs is checked when it begins.
    """
    notes = guards.check_archive(config, target, store, without=options.without_archived)
    if target.settings.live != "esops":
        raise Refused(
            f"the application keeps {target.name} fresh (live = "
            f'"{target.settings.live}"), so both would write to the same tables',
            hint="Rebuild with --blue-green.",
        )
    with translated():
        guards.check_inline(connection, store, target, ends_with_switch=True)
        active = registry.active(connection, target.name)
        guards.check_log(connection, store, active)
        _check_same_store(target, active)
        if active is not None and target.settings.switch != "hook":
            read_as.check(connection, target.names, active)
            served.check_all(connection, target.names, active)
        head = store.head(SETTLING).position
        physical = active.tables if active else _current(connection, target)
        looked = [catalog.find_table(connection, *each) for each in physical.values()]
        there = [table for table in looked if table is not None]
        if options.ranges is not None:
            check_ranges(target, store, there)
            notes += plan_notes.of_parts(target, there, "range")
        if not options.accept_fewer:
            notes += guards.check_names(target, store)
            made_of = active.events if active else 0
            guards.check_enough_events(target, store, head, connection, physical, made_of)
        notes += shortened.check(store, target.name, target.settings, options)
    tables = (
        [".".join(each) for each in active.tables.values()]
        if active
        else [str(name) for name in target.names]
    )
    events, between = counted_events(store, head)
    return InPlacePlan(
        projection=target.name,
        tables=tables,
        ranges=options.ranges,
        events=events,
        events_range=between,
        counted=store.capabilities.count_between,
        notes=notes,
    )


def check_ranges(target: Target, store: EventStore, tables: Sequence[Table]) -> None:
    """Raises Refused or UsageError where rows cannot be replaced range by range: later, some would
    be of the old code and some of the new.
    """
    check_shardable(target.definition, store, "--ranges")
    for table in tables:  # a fold has one, which may not be built yet
        kinds.check(target.definition, [table], conjoined=store.capabilities.tenants)
        check_keys(store, table, table.key, "--ranges")


def _check_same_store(target: Target, active: Version | None) -> None:
    """Raises Refused where what serves was made of another store: its rows, its checkpoint and
    what is kept of its log would then belong to two.
    """
    if active is not None and active.store != target.store_name:
        raise Refused(
            f"v{active.version} of {target.name} was made of store {active.store}, and esops.toml "
            f"names store {target.store_name} for it",
            hint=f"Build a version of that store: esops rebuild {target.name} --blue-green",
        )


def _current(connection: psycopg.Connection, target: Target) -> dict[str, tuple[str, str]]:
    """The tables under the names that readers use, of a read model that esops does not know yet."""
    tables = versions_and_tables(connection, target)[1]
    return {name: (table.schema, table.name) for name, table in tables.items()}
