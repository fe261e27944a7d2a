"""A version that the application itself builds: begun by a program, watched by its checkpoint,
verified, switched to, retired.

Of such a version esops writes nothing but the name that readers use. Marten gives each version of a
projection tables and a progression
row of its own (`mt_doc_x_2`, `X:V2:All`), Emmett a processor of its own; which one a version of
esops is, is its checkpoint's name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import psycopg

from esops.config import Config
from esops.errors import Refused, Stopped, UsageError, nearest
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import qualified, translated
from esops.readmodel import migrations, registry
from esops.readmodel.names import parse_name
from esops.readmodel.registry import Version
from esops.readmodel.tables import count_rows
from esops.readmodel.types import CHECKPOINT
from esops.rebuild import journal, switch
from esops.rebuild.hooks import run_program
from esops.rebuild.outcome import Outcome
from esops.rebuild.plan import SETTLING, Options, Plan, Target, adopted, bytes_of, known_of, needs
from esops.rebuild.steps import Rebuild
from esops.rebuild.verification import comparison as verify
from esops.rebuild.verification.comparer import LOOK_EVERY, Comparer, Going, taken_in
from esops.settings import VerifySettings
from esops.stores.base import EventStore
from esops.stores.checkpoints import checkpoint_of

_VERSION = re.compile(r":V(\d+)(?=:)")
_PATIENCE = timedelta(minutes=10)
_START_LIMIT = timedelta(minutes=10)
_ALIVE = timedelta(seconds=30)
_BOOKKEEPING = ("mt_last_modified", "mt_version", "mt_created_at", "mt_dotnet_type")
"""Columns of Marten's documents that tell of the writing and not of the document."""


@dataclass(frozen=True)
class ExternalPlan(Plan):
    """What will be done about a version that the application builds."""

    built: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def tables(self) -> dict[str, tuple[str, str]]:
        """Those that the application makes, by the names that readers use."""
        return dict(self.built)

    def _statement_lines(self) -> list[str]:
        settings = self.target.settings
        lines = migrations.plan_lines(self.installs)
        begin = (
            " ".join(settings.start)
            if settings.start
            else "nothing: the application's build is begun by hand"
        )
        lines += [
            f"  -- begin: {begin}",
            f"  -- watch the application's checkpoint {settings.checkpoint}",
        ]
        if settings.switch == "hook":
            return [*lines, f"  -- switch: {' '.join(settings.hooks.switch)}"]
        pairs = [
            (model.identifier, qualified(*self.built[model.name])) for model in self.target.names
        ]
        names = [
            f"  CREATE OR REPLACE VIEW {name.as_string(None)} AS SELECT … FROM "
            f"{table.as_string(None)};"
            for name, table in pairs
        ]
        return [
            *lines,
            "  -- switch, in one transaction, with green's checkpoint at or past blue's",
            *names,
        ]


def make_plan(
    config: Config,
    target: Target,
    options: Options,
    store: EventStore,
    connection: psycopg.Connection,
) -> ExternalPlan:
    """Find out what would be done. Changes nothing. Raises UsageError or Refused."""
    info = store.ping()
    if info.warnings:
        raise Refused(f"store {target.store_name}: {info.warnings[0]}")
    if unfit := needs(options):
        raise UsageError(
            f"the application builds {target.name} itself: {unfit} can do nothing about it"
        )
    with translated():
        known, current = known_of(connection, target)
        built = _built(target)
        source = next((each for each in known if each.state == "active"), None)
        adopt = source is None and bool(current)
        taken = {
            table: each
            for each in known
            if each.state in registry.LIVE_STATES
            for table in each.tables.values()
        }
        for table in built.values():
            if table in taken:
                raise Refused(
                    f"{'.'.join(table)} is v{taken[table].version} of {target.name}, which is "
                    "there already",
                    hint="Raise the version in the application, and name its `checkpoint` (and "
                    "`built`) in esops.toml.",
                )
        if adopt:
            source, before = adopted(connection, target, current), _checkpoint_before(store, target)
            source = source if before is None else replace(source, fingerprint=CHECKPOINT + before)
        if target.settings.switch == "view":
            for model in target.names:
                if model.name in current and current[model.name].kind != "v":
                    raise Refused(
                        f"{model} is a table of the application's own, and would have to be "
                        "renamed for a view",
                        hint="Let readers read a view of another name, or move them by switch "
                        '= "hook".',
                    )
        blue = [
            catalog.find_table(connection, *table)
            for table in (source.tables.values() if source is not None else ())
        ]
    head = store.head(SETTLING).position
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
        compare=_method(options, source is not None),
        events=store.count_between(None, head) if head is not None else 0,
        counted=store.capabilities.count_between,
        head=head,
        blue_bytes=sum(bytes_of(connection, table) for table in blue if table is not None),
        installs=migrations.plan(connection),
        notes=list(_notes(config, target, options, store)),
        built=built,
    )


def _built(target: Target) -> dict[str, tuple[str, str]]:
    """The tables that the application builds: as they are named, or by the number in the
    checkpoint's name, as Marten does.
    """
    settings = target.settings
    if settings.built:
        default = target.names[0].schema
        named = [parse_name(each, default) for each in settings.built]
        return {
            model.name: (each.schema, each.name)
            for model, each in zip(target.names, named, strict=True)
        }
    found = _VERSION.search(settings.checkpoint or "")
    if found is None:
        raise UsageError(
            f"{target.config}: projections.{target.name}.built: which tables does the "
            "application build?",
            hint="It can be left out where `checkpoint` has a number as Marten's have, such as "
            "CartSummary:V2:All.",
        )
    return {model.name: (model.schema, f"{model.name}_{found[1]}") for model in target.names}


def _checkpoint_before(store: EventStore, target: Target) -> str | None:
    """The checkpoint of what serves before esops knows of any version: the same processor's, of the
    version before.
    """
    name = target.settings.checkpoint or ""
    number = _VERSION.search(name)
    candidates = [_VERSION.sub("", name)] if number else []
    candidates += (
        [f"{name.rpartition('/')[0]}/{int(name.rpartition('/')[2]) - 1}"]
        if name.rpartition("/")[2].isdigit()
        else []
    )
    if number:
        candidates = [
            _VERSION.sub(f":V{before}", name) for before in range(int(number[1]) - 1, 1, -1)
        ] + candidates
    return next(
        (each for each in candidates if each != name and checkpoint_of(store, each) is not None),
        None,
    )


def _method(options: Options, compared: bool) -> verify.Method:
    if not compared:
        return "none"
    methods: tuple[verify.Method, ...] = ("exact", "columns", "sample", "counts", "none")
    for method in methods:
        if (options.compare or "columns") == method:
            return method
    raise UsageError(
        f"there is no comparison {options.compare!r}", hint=nearest(options.compare or "", methods)
    )


def _notes(config: Config, target: Target, options: Options, store: EventStore) -> list[str]:
    name = target.settings.checkpoint or ""
    there = checkpoint_of(store, name)
    notes = []
    if there is not None:
        notes.append(
            f"the application's checkpoint {name} is there already, at position {there.position}"
        )
    if config.projections[target.name].switch == "hook":
        notes.append(
            "the program that switches moves all readers; that none steps back is its affair"
        )
    if options.retire_after is not None:
        notes.append(
            "blue is dropped by `esops run` only once the application no longer moves its "
            "checkpoint"
        )
    return notes


def reached(store: EventStore, version: Version) -> Position | None:
    """How far a version is that the application keeps; None where it has no checkpoint, or is one
    of esops'.
    """
    there = None if version.checkpoint is None else checkpoint_of(store, version.checkpoint)
    return None if there is None else there.position


def check_left(store: EventStore, version: Version) -> None:
    """Raises Refused where the application still keeps a version that is to be dropped."""
    there = None if version.checkpoint is None else checkpoint_of(store, version.checkpoint)
    if there is None or there.updated_at is None:
        return
    age = datetime.now(UTC) - there.updated_at
    if age < _ALIVE:
        raise Refused(
            f"the application still keeps v{version.version} fresh: {there.name} was moved "
            f"{age.total_seconds():.0f} s ago",
            hint="Stop that version of its projector first.",
        )


class _Count:
    """How many events there are up to a position that moves on: each is counted once, since all of
    them may be very many.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._to: Position | None = None
        self.events = 0

    def up_to(self, position: Position | None) -> int:
        if position is not None and (self._to is None or position > self._to):
            self.events += self._store.count_between(self._to, position)
            self._to = position
        return self.events


class _Behind(Exception):
    """Readers have seen more of blue than green has."""


class External(Rebuild):
    """One rebuild that the application does."""

    _seen: _Count | None = None

    def abort(self) -> Outcome:
        """Give it up; what the application builds is the application's, and stays."""
        outcome = super().abort()
        self._say(
            f"{self._tables()} and the checkpoint {self._name} are the application's, and stay"
        )
        return outcome

    def _drop(self, connection: psycopg.Connection, green: Version) -> None:
        """It is not esops' to drop."""

    def _dropped(self, green: Version) -> str:
        return (
            f"{', '.join('.'.join(table) for table in green.tables.values())} are the "
            "application's, and stay"
        )

    @property
    def _name(self) -> str:
        return self._version().checkpoint or ""

    def _version(self) -> Version:
        return super()._green()

    def _green(self) -> Version:
        """The version, with the application's checkpoint as its own."""
        version = self._version()
        position = reached(self.store, version)
        self._seen = self._seen or _Count(self.store)
        return replace(version, position=position, events=self._seen.up_to(position))

    def _tables(self) -> str:
        return ", ".join(".".join(table) for table in self._version().tables.values())

    def _provision(self) -> None:
        """Have the application begin. After a crash it may be told so once more."""
        self._hooks.run("before_catch_up", self._told())
        command = self.target.settings.start
        if command:
            told = {**self._told(), "checkpoint": self._name}
            run_program("start", command, self.target.directory, told, _START_LIMIT, self._say)
        else:
            self._say(f"waiting for the application to build {self._tables()}")
        self._enter(journal.PROVISIONED)

    def _catch_up(self) -> None:
        self._enter(journal.CATCHING_UP)
        self._follow()
        self._enter(journal.FOLLOWING)

    def _follow(self) -> None:
        """Until the tables are there and the checkpoint is near the head.

        Raises Stopped where it stands still for too long.
        """
        limit = self.target.settings.timeout or _PATIENCE
        moved, told, all_of_them = time.monotonic(), 0.0, _Count(self.store)
        last: Position | None = None
        while True:
            if self._stop():
                raise Stopped(f"stopped while the application is at position {last}")
            head, green = self._head(), self._green()
            if green.position != last:
                moved, last = time.monotonic(), green.position
            behind = max(0, all_of_them.up_to(head) - green.events)
            self._watcher.progress(green.events, green.events + behind)
            missing = [".".join(table) for table in green.tables.values() if not self._there(table)]
            if (
                not missing
                and (green.position is not None or head is None)
                and behind <= self._options.switch_lag
            ):
                return
            still = time.monotonic() - moved
            if still > limit.total_seconds():
                what = (
                    f"there is no table {missing[0]}"
                    if missing
                    else f"its checkpoint {self._name} stands at {green.position}"
                )
                raise Stopped(
                    f"the application has not moved for {limit.total_seconds():.0f} s, with "
                    f"{behind:,} events to go: {what}",
                    hint="See why, and go on with --resume.",
                )
            if still > max(told * 2, 10):
                told = still
                self._say(
                    f"the application stands at {green.position}, {behind:,} events behind, since "
                    f"{still:.0f} s"
                )
            time.sleep(LOOK_EVERY if behind or missing else 0.2)

    def _there(self, table: tuple[str, str]) -> bool:
        return self._session.do(lambda on: catalog.find_table(on, *table)) is not None

    def _verify(self) -> bool:
        blue, green = self._blue(), self._green()
        if blue is None or self._options.compare == "none":
            rows = self._session.do(
                lambda on: sum(count_rows(on, table) for table in green.tables.values())
            )
            note = "nothing served before" if blue is None else None
            found = verify.Verification("none", None, rows, 0, str(green.position), note=note)
        else:
            self._say("verifying")
            found = self._comparing().until_they_agree(
                blue, str(green.position), self._going_on(blue)
            )
        self._session.do(lambda on: registry.set_rows(on, green, found.rows_green))
        found = self._comparing().assertions(found, self.target.settings.verify.assertions)
        self._keep(found)
        return verify.tolerated(found, self._options.max_diff)

    def _comparing(self) -> Comparer:
        settings = self.target.settings.verify
        ignore = (*settings.ignore, *(_BOOKKEEPING if self._of_marten() else ()))
        own = VerifySettings(
            assertions=settings.assertions, ignore=ignore, expected=settings.expected
        )
        method: verify.Method = self._options.compare or "columns"  # type: ignore[assignment]
        return Comparer(self._session, self.target.dsn, self.store, self._green(), method, own)

    def _of_marten(self) -> bool:
        def look(connection: psycopg.Connection) -> bool:
            found = [
                catalog.find_table(connection, *table) for table in self._version().tables.values()
            ]
            return any(table is not None and table.has("mt_last_modified") for table in found)

        return self._session.do(look)

    def _going_on(self, blue: Version) -> Going:
        """The application writes both; they are to have taken in what there is now."""
        head = self._head()

        def step() -> None:
            if self._stop():
                raise Stopped("stopped while rows that differ were looked at again")
            time.sleep(LOOK_EVERY)

        names = [each.checkpoint for each in (blue, self._version()) if each.checkpoint is not None]
        return Going(step, taken_in(self.store, names, head), self._say)

    def _keep_up(self) -> None:
        time.sleep(0.2)

    def _switch(self) -> None:
        """Point the names at what the application built, once it is at or past what any reader can
        have seen of blue.
        """
        settings, blue, green = self.target.settings, self._blue(), self._version()
        self._say(f"switching {', '.join(map(str, self.target.names))} to {self._tables()}")
        if settings.switch == "hook" and green.state != "active":
            self._await_ahead(blue, green)
            self._hooks.run("switch", self._told())

        def record(connection: psycopg.Connection) -> None:
            # The names are locked by now: what readers have seen of blue, its checkpoint had
            # reached before this look at it.
            if (
                settings.switch == "view"
                and blue is not None
                and not _ahead(self.store, blue, green)
            ):
                raise _Behind
            journal.enter(connection, self._the_entry.rebuild, journal.SWITCHED, finished=True)

        def do(connection: psycopg.Connection) -> None:
            if registry.version(connection, green.projection, green.version).state != "active":
                switch.perform(
                    connection,
                    self.target.names,
                    settings.switch,
                    blue,
                    green,
                    bring_to=lambda _: None,
                    record=record,
                    stop=self._stop,
                    say=self._say,
                )

        while True:
            try:
                return self._session.do(do)
            except _Behind:
                self._await_ahead(blue, green)

    def _await_ahead(self, blue: Version | None, green: Version) -> None:
        deadline = time.monotonic() + (self.target.settings.timeout or _PATIENCE).total_seconds()
        while blue is not None and not _ahead(self.store, blue, green):
            if self._stop() or time.monotonic() > deadline:
                raise Stopped(
                    f"{self._name} stands at {reached(self.store, green)}, behind {blue.checkpoint}"
                )
            time.sleep(0.05)


def _ahead(store: EventStore, blue: Version, green: Version) -> bool:
    before = reached(store, blue)
    if before is None:
        return True
    now = reached(store, green)
    return now is not None and now >= before
