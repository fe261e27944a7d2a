"""What a rebuild will do where the application builds green."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import psycopg

from esops.config import Config
from esops.errors import Refused, UsageError
from esops.postgres import catalog
from esops.postgres.catalog import Table
from esops.postgres.connection import qualified, translated
from esops.readmodel import migrations, read_as, registry
from esops.readmodel.names import parse_name
from esops.readmodel.registry import Version
from esops.readmodel.types import CHECKPOINT
from esops.rebuild import guards, shortened
from esops.rebuild.blue import adopted, bytes_of, versions_and_tables
from esops.rebuild.options import SETTLING, Options
from esops.rebuild.plan import RebuildPlan
from esops.rebuild.planning import counted_events, method_of
from esops.rebuild.target import Target
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of

_VERSION = re.compile(r":V(\d+)(?=:)")
"""The number in the names of Marten's checkpoints: CartSummary:V2:All."""


@dataclass(frozen=True)
class ExternalPlan(RebuildPlan):
    """The plan of a rebuild where the application builds green."""

    built: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, tuple[str, str]]:
        """The tables that the application builds, by the names that readers use."""
        return dict(self.built)

    def _statement_lines(self) -> list[str]:
        settings = self.target.settings
        lines = migrations.plan_lines(self.installs)
        start = (
            " ".join(settings.start)
            if settings.start
            else "by hand (no `start` program is configured)"
        )
        lines += [
            f"  -- start the application's build: {start}",
            f"  -- watch the application's checkpoint {settings.checkpoint}",
        ]
        if settings.switch == "hook":
            return [*lines, f"  -- switch: {' '.join(settings.hooks.switch)}"]
        pairs = [(name.identifier, qualified(*self.built[name.name])) for name in self.target.names]
        views = [
            f"  CREATE OR REPLACE VIEW {name.as_string(None)} AS SELECT … FROM "
            f"{table.as_string(None)};"
            for name, table in pairs
        ]
        return [
            *lines,
            "  -- switch, in one transaction, with green's checkpoint at or past blue's",
            *views,
        ]


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> ExternalPlan:
    """The plan. Changes nothing. Raises UsageError or Refused where it cannot be done."""
    info = store.ping()
    if info.warnings:
        raise Refused(f"store {target.store_name}: {info.warnings[0]}")
    # Silence would let somebody believe that the load is limited.
    if option := options.loading_option():
        raise UsageError(
            f"{option} has no effect: the application builds {target.name} itself",
            hint=f"Leave out {option}.",
        )
    built = _built(target)
    away = guards.check_archive_of_others(
        config, target.name, target.store_name, without=options.without_archived
    )
    away += shortened.check(store, target.name, target.settings, options)
    with translated():
        known, current = versions_and_tables(connection, target)
        _refuse_taken(target, known, built)
        source = next((each for each in known if each.state == "active"), None)
        if target.settings.switch != "hook":
            read_as.check(connection, target.names, source)
        # What served before esops came is version 1; its checkpoint says how far it is.
        adopt = source is None and bool(current)
        if adopt:
            source, before = adopted(connection, target, current), _checkpoint_before(store, target)
            source = source if before is None else replace(source, fingerprint=CHECKPOINT + before)
        _refuse_tables_of_its_own(target, current)
        blue = [
            catalog.find_table(connection, *table)
            for table in (source.tables.values() if source is not None else ())
        ]
    head = store.head(SETTLING).position
    events, between = counted_events(store, head)
    return ExternalPlan(
        target=target,
        source=source,
        adopt=adopt,
        to_version=max([each.version for each in known] + [source.version if source else 0]) + 1,
        create=[],
        after_load=[],
        drop_now=[],
        switch=[],
        keys={},
        compare=method_of(options.compare or "columns") if source is not None else "none",
        events=events,
        events_range=between,
        counted=store.capabilities.count_between,
        head=head,
        blue_bytes=sum(bytes_of(connection, table) for table in blue if table is not None),
        installs=migrations.plan(connection),
        notes=[*away, *_notes(config, target, options, store)],
        built=built,
    )


def _refuse_taken(
    target: Target, known: list[Version], built: Mapping[str, tuple[str, str]]
) -> None:
    taken = {
        table: each
        for each in known
        if each.state in registry.LIVE_STATES
        for table in each.tables.values()
    }
    for table in built.values():
        if table in taken:
            raise Refused(
                f"the table {'.'.join(table)} belongs to v{taken[table].version} of "
                f"{target.name}, which exists already",
                hint="Raise the projection's version in the application, and name its new "
                "`checkpoint` (and `built`) in esops.toml.",
            )


def _refuse_tables_of_its_own(target: Target, current: Mapping[str, Table]) -> None:
    if target.settings.switch != "view":
        return
    for name in target.names:
        if name.name in current and current[name.name].kind != "v":
            raise Refused(
                f"{name} is a table of the application, which esops would have to rename to put a "
                "view in its place",
                hint='Let readers use a view of another name, or move them with switch = "hook".',
            )


def _built(target: Target) -> dict[str, tuple[str, str]]:
    """The tables that the application builds: as `built` names them, or with the number in the
    checkpoint's name, as Marten does.
    """
    settings = target.settings
    if settings.built:
        default = target.names[0].schema
        named = [parse_name(each, default) for each in settings.built]
        return {
            name.name: (each.schema, each.name)
            for name, each in zip(target.names, named, strict=True)
        }
    found = _VERSION.search(settings.checkpoint or "")
    if found is None:
        raise UsageError(
            f"{target.config}: projections.{target.name}.built is missing: esops does not know "
            "which tables the application builds",
            hint="It can be left out only where `checkpoint` has a version number as Marten's "
            "have, such as CartSummary:V2:All.",
        )
    return {name.name: (name.schema, f"{name.name}_{found[1]}") for name in target.names}


def _checkpoint_before(store: EventStore, target: Target) -> str | None:
    """The checkpoint of what serves before esops knows any version: that of the processor that
    makes its tables, by the library's own list; else that of the same processor, of the version
    before.
    """
    name = target.settings.checkpoint or ""
    for makes in _processors_of(store, target):
        if makes != name and checkpoint_of(store, makes) is not None:
            return makes
    number = _VERSION.search(name)
    candidates = [_VERSION.sub("", name)] if number else []
    candidates += (
        [f"{name.rpartition('/')[0]}/{int(name.rpartition('/')[2]) - 1}"]
        if name.rpartition("/")[2].isdigit()
        else []
    )
    # The nearest version first: several may still have their progression rows.
    if number:
        candidates = [
            _VERSION.sub(f":V{before}", name) for before in range(int(number[1]) - 1, 1, -1)
        ] + candidates
    return next(
        (each for each in candidates if each != name and checkpoint_of(store, each) is not None),
        None,
    )


def _processors_of(store: EventStore, target: Target) -> Iterator[str]:
    """The processors that make what serves, as far as the library's own tables tell."""
    tables = {(each.schema, each.name) for each in target.names}
    for table in store.inline.kept() if store.inline is not None else ():
        if (table.schema, table.name) in tables:
            yield from table.processors


def _notes(config: Config, target: Target, options: Options, store: EventStore) -> list[str]:
    name = target.settings.checkpoint or ""
    there = checkpoint_of(store, name)
    notes: list[str] = []
    if there is not None:
        notes.append(
            f"the application's checkpoint {name} exists already, at position {there.position}"
        )
    if config.projections[target.name].switch == "hook":
        notes.append(
            "your program `hooks.switch` moves the readers; it must see to it that none of them "
            "sees older data than before"
        )
    if options.retire_after is not None:
        notes.append(
            "`esops run` drops blue only once the application has stopped moving blue's checkpoint"
        )
    return notes
