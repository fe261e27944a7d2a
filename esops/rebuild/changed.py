"""`esops plan`: which projections of esops.toml differ from the version that serves, what that
takes, and about how long.

What is not known counts as something to be looked at, and never as unchanged: code that cannot be
loaded, a program of which the fingerprint sees no file, a version that an older esops built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import psycopg

from esops.config import Config
from esops.errors import Busy, EsopsError, Unavailable, UsageError
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import registry, renamed
from esops.readmodel.registry import Version
from esops.readmodel.tables import missing_tables
from esops.rebuild import journal, made_of, serving_troubles, table_changes, under_way
from esops.rebuild.code_changes import (
    as_with_today,
    differing_code,
    of_mixed,
    of_setting,
    where,
    with_resumed,
)
from esops.rebuild.estimate import Stores, estimate
from esops.rebuild.projection_change import ProjectionChange
from esops.rebuild.target import Target, resolve

_WITHOUT_REBUILD = {"verify"}
"""What may differ, and is of no account for the rows."""
_TAKEN = (psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject)
_WAIT = "SET lock_timeout = '2s'"
"""A session that holds a table of the registry keeps nobody waiting for long who only asks."""


def look(
    config: Config, names: Sequence[str] = (), store: str | None = None
) -> list[ProjectionChange]:
    """What has changed of some projections, or of all of esops.toml. Changes nothing.

    One that cannot be looked at has an `error`, and the others are looked at all the same. Of all,
    those follow that have versions and are not in esops.toml. Raises UsageError for an unknown
    name.
    """
    for name in names:
        config.projection(name)
    asked = list(dict.fromkeys(names)) or list(config.projections)
    with ExitStack() as stack:
        stores = Stores(config, stack)
        found = [_of(config, name, store, stores) for name in asked]
    return found if names else [*found, *_not_in_the_file(config)]


def _not_in_the_file(config: Config) -> list[ProjectionChange]:
    """Projections with a version that serves, in the databases of those that are in esops.toml."""
    asked = {
        config.readmodel_of(name).dsn: name
        for name, settings in config.projections.items()
        if settings.kind != "server"
    }
    found = []
    for dsn, name in asked.items():
        try:
            with connect(dsn, "plan") as connection:
                connection.execute(_WAIT)
                known = registry.versions(connection)
                former = {
                    renamed.former_name(config, connection, each)
                    for each in config.projections
                    if config.readmodel_of(each).dsn == dsn
                }
        except (EsopsError, psycopg.Error):
            continue  # said of each projection that is in it
        found += [
            ProjectionChange(
                each.projection,
                each.version,
                unknown={
                    "projection": f"it is not in this esops.toml, and v{each.version} serves in "
                    f"the database of {name}"
                },
            )
            for each in known
            if each.state == "active" and each.projection not in {*config.projections, *former}
        ]
    return found


def _of(config: Config, name: str, store: str | None, stores: Stores) -> ProjectionChange:
    found = ProjectionChange(name)
    if config.projection(name).kind == "server":
        found.unknown["query"] = "it runs inside its store, which keeps no version of the query"
        return found
    try:
        with translated(), connect(config.readmodel_of(name).dsn, f"plan {name}") as connection:
            connection.execute(_WAIT)
            target = resolve(config, name, store, connection)
            _Look(config, connection, (target, found), stores).all()
    except EsopsError as error:
        found.error = error
    except psycopg.errors.LockNotAvailable:
        found.error = Busy(
            "a session holds a lock on one of its tables, on one that its DDL refers to, or on the "
            "registry",
            hint="Run it again when that session has ended: pg_blocking_pids() names it.",
        )
    except psycopg.Error as error:
        found.error = Unavailable(f"the database failed: {str(error).splitlines()[0]}")
    return found


class _Look:
    """One projection, held against the version that serves."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        of: tuple[Target, ProjectionChange],
        stores: Stores,
    ) -> None:
        self._config, self._connection, self._stores = config, connection, stores
        self._target, self._found = of
        self._versions = registry.versions(connection, self._target.name)
        self._serving = next((each for each in self._versions if each.state == "active"), None)

    @cached_property
    def _kept(self) -> Mapping[str, Any] | None:
        assert self._serving is not None
        return made_of.kept(self._connection, self._target.name, self._serving.version)

    def all(self) -> None:
        """Fill in what differs, what is wrong with what serves, and what that takes."""
        found, serving = self._found, self._serving
        self._note_unfinished()
        if serving is None:
            self._never_built()
        else:
            found.version = serving.version
            self._against(serving)
        if found.needs == "rebuild":
            estimate(self._connection, self._target, serving, found, self._stores)

    def _against(self, serving: Version) -> None:
        found, target = self._found, self._target
        found.wrong |= serving_troubles.of_tables(
            self._config, self._connection, target, serving, self._versions
        )
        self._store_and_tables(serving)
        self._code(serving)
        self._tables(serving)
        if serving.lost is not None:
            found.changed["lost"] = f"its rows are of events that are gone: {serving.lost}"
        elif serving.store == target.store_name:
            other = serving_troubles.of_log(
                self._connection, self._stores.opened(target.store_name), serving
            )
            found.wrong |= {} if other is None else {"log": other}
        needs = set(found.changed) - _WITHOUT_REBUILD
        if found.wrong or (needs and "ddl" in found.unknown):
            # A rebuild would refuse, or be made beside what is wrong.
            found.needs, found.only_indexes = "look", False
        elif needs:
            found.needs = "rebuild"
            found.only_indexes = needs == {"ddl"} and found.only_indexes
            if (waiting := self._waiting(serving)) is not None:
                found.needs, found.waiting = "switch", waiting.version
                found.only_indexes = False
        if not found.only_indexes:
            found.statements = ()

    # -- what differs

    def _never_built(self) -> None:
        found, settings = self._found, self._target.settings
        former = renamed.former_name(self._config, self._connection, self._target.name)
        if former is not None:
            found.unknown["name"] = renamed.in_words(former, self._target.name)
            return
        building = next((v for v in self._versions if v.state in ("building", "standby")), None)
        there = any(
            catalog.find_table(self._connection, each.schema, each.name) is not None
            for each in self._target.names
        )
        if settings.live != "esops" and there:
            found.unknown["application"] = (
                "the application made what serves, and esops has never built it"
            )
            return
        found.changed["new"] = "it was never built"
        found.needs = "rebuild"
        if building is not None and self._is_ready(building):
            found.needs, found.waiting = "switch", building.version
        else:
            number = max((each.version for each in self._versions), default=1) + 1
            table_changes.try_out(self._connection, self._target, number)

    def _store_and_tables(self, serving: Version) -> None:
        target, changed = self._target, self._found.changed
        if serving.store != target.store_name:
            changed["store"] = f"{target.store_name}, and it was {serving.store}"
        names = {(each.schema, each.name) for each in target.names}
        were = {(schema, name) for name, (schema, _) in serving.tables.items()}
        if names != were:
            changed["tables"] = f"{_words(names, were)}, and they were {_words(were, names)}"

    def _code(self, serving: Version) -> None:
        target, found = self._target, self._found
        kept, now = self._kept, made_of.parts(target)
        if serving.fingerprint is None and kept is None:
            # Adopted: the application, or nobody knows who, made its rows.
            by_application = target.settings.live != "esops"
            found.unknown["application" if by_application else "function"] = (
                f"v{serving.version} was not built by esops, or its code was not noted"
            )
            return
        # A version that was handed over to the application has no fingerprint any more.
        same = serving.fingerprint is not None and target.code.made(serving.fingerprint)
        same = same or (
            serving.fingerprint is None
            and kept is not None
            and all(kept.get(part) == now[part] for part in ("function", "key", "events", "files"))
        )
        if not same:
            found.changed |= differing_code(kept, now, where(target))
        if not made_of.names_its_program(target):
            found.unknown["function"] = (
                "no word of `command` is a file, so nobody sees whether the program has changed; "
                "name its files in `fingerprint`"
            )
        if kept is None:
            if target.settings.kind != "external":
                found.unknown["settings"] = (
                    f"an older esops built v{serving.version}, and kept no settings of it"
                )
                self._switch(serving)
            return
        today = now["settings"]
        if kept["settings"]["on_error"] != today["on_error"] == "dead-letter":
            found.notes.append(
                "on_error: stop -> dead-letter counts for the events to come, and needs no rebuild"
            )
        later = [
            as_with_today(each, today)
            for each in made_of.resumed(self._connection, target.name, serving.version)
        ]
        kept = {**kept, "settings": as_with_today(kept["settings"], today)}
        before = with_resumed(kept, later)
        for part in ("kind", "settings", "verify"):
            if before.get(part) != now[part]:
                found.changed[part] = of_setting(before.get(part), now[part])
        mixed = of_mixed(before["settings"], later)
        if mixed:
            found.changed["settings"] = mixed

    def _switch(self, serving: Version) -> None:
        """How it was switched, where that was not kept: the database shows it."""
        now, was = self._target.settings.switch, set()
        for each in self._target.names:
            there = catalog.find_table(self._connection, each.schema, each.name)
            if there is not None:
                was.add("view" if there.kind == "v" else "rename")
        if serving.fingerprint is not None and now in ("view", "rename") and was - {now}:
            self._found.changed["settings"] = f"switch: {(was - {now}).pop()} -> {now}"

    def _tables(self, serving: Version) -> None:
        found, target = self._found, self._target
        if {"tables", "gone"} & {
            *found.changed,
            *found.wrong,
        } or target.settings.kind == "external":
            return
        number = max(each.version for each in self._versions) + 1
        try:
            differing = table_changes.of_tables(self._connection, target, serving, number)
        except UsageError as error:
            if not isinstance(error.__cause__, _TAKEN):
                raise
            # Of what serves nothing has changed by that; only a rebuild would fail.
            found.unknown["ddl"] = f"{error.message}. {error.hint}"
            return
        if differing.said:
            found.changed["ddl"] = "; ".join(differing.said)
            found.only_indexes, found.statements = differing.only_indexes, differing.statements

    # -- what that takes

    def _waiting(self, serving: Version) -> Version | None:
        """The newest version that waits for its switch, and that today's code and DDL have made."""
        for each in reversed(self._versions):
            if each.version > serving.version and self._is_ready(each):
                ddl = self._target.settings.ddl
                if ddl is None or each.state == "active":
                    return each
                number = max(v.version for v in self._versions) + 1
                there = table_changes.of_tables(self._connection, self._target, each, number)
                return None if there.said else each
        return None

    def _is_ready(self, version: Version) -> bool:
        target = self._target
        made = version.fingerprint is not None and target.code.made(version.fingerprint)
        if not made or version.lost is not None or version.store != target.store_name:
            return False
        kept = made_of.kept(self._connection, target.name, version.version)
        if kept is not None:
            now = made_of.parts(target)
            settings = as_with_today(kept["settings"], now["settings"])
            if (kept["kind"], settings) != (now["kind"], now["settings"]):
                return False
        names = {each.name: each.schema for each in target.names}
        if names != {name: schema for name, (schema, _) in version.tables.items()}:
            return False
        if missing_tables(self._connection, version):
            return False
        store = self._stores.opened(target.store_name)
        if serving_troubles.of_log(self._connection, store, version) is not None:
            return False
        if version.state == "standby":
            return True
        entry = journal.latest(self._connection, self._target.name)
        return (
            version.state == "building"
            and entry is not None
            and entry.to_version == version.version
            and entry.state == journal.VERIFIED
        )

    def _note_unfinished(self) -> None:
        entry = journal.latest(self._connection, self._target.name)
        waits = None if entry is None else under_way.unfinished(entry, works=False)
        if entry is not None and waits is not None and entry.state != journal.VERIFIED:
            drop = f", or drop it with {waits['abort']}" if waits["abort"] else ""
            self._found.notes.append(
                f"rebuild {entry.rebuild} is not finished ({entry.state}): continue it with "
                f"{waits['resume']}{drop}"
            )
        accepted = self._serving and journal.accepted_code(
            self._connection, self._target.name, self._serving.version
        )
        if accepted:
            self._found.notes.append("a part of its rows is of the code before (--accept-code)")


def _words(names: set[tuple[str, str]], others: set[tuple[str, str]]) -> str:
    """Names without their schema where that is no other one."""
    schemas = {schema for schema, _ in names | others}
    return ", ".join(sorted(name if len(schemas) == 1 else f"{s}.{name}" for s, name in names))
