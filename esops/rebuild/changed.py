"""`esops plan`: which projections of esops.toml differ from the version that serves, what that
takes, and about how long.

What is not known counts as something to be looked at, and never as unchanged: code that cannot be
loaded, a program of which the fingerprint sees no file, a version that an older esops built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import psycopg

from esops.config import Config
from esops.errors import EsopsError
from esops.events import Position
from esops.postgres import catalog
from esops.postgres.connection import connect, translated
from esops.readmodel import migrations, registry, renamed
from esops.readmodel.registry import Version
from esops.rebuild import journal, made_of, table_changes
from esops.rebuild.planning import bytes_of
from esops.rebuild.target import Target, resolve
from esops.stores import open_store
from esops.stores.base import LOOKING, EventStore

Needs = Literal["nothing", "rebuild", "switch"]
_WITHOUT_REBUILD = {"verify"}
"""What may differ, and is of no account for the rows."""
_SAID_ONLY = {"settings", "application"}
"""What may stay unknown while nothing has to be done: it is said. Nobody else can know it either,
and the rows are those of the code and the DDL that are known.
"""
_NAMED = 5


@dataclass
class ProjectionChange:
    """A projection, and what is other than in the version that serves."""

    projection: str
    version: int | None = None
    """The version that serves."""
    changed: dict[str, str] = field(default_factory=dict)
    """What differs (function, ddl, events, …), each with what is known of it."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Of what nobody knows whether it differs, and why."""
    needs: Needs = "nothing"
    waiting: int | None = None
    """The version that the code of today has built, and that waits for its switch."""
    only_indexes: bool = False
    statements: Sequence[str] = ()
    """Where only indexes differ: what would be enough instead of a rebuild."""
    events: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    """Estimates of the rebuild."""
    notes: list[str] = field(default_factory=list)
    error: EsopsError | None = None
    """Why it is not known what differs."""

    @property
    def settled(self) -> bool:
        """Whether nothing has to be done, and that is known."""
        known = not set(self.unknown) - _SAID_ONLY
        return self.needs == "nothing" and known and self.error is None

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.projection,
            "version": self.version,
            "changed": list(self.changed),
            "details": dict(self.changed),
            "unknown": dict(self.unknown),
            "needs": None if self.error is not None else self.needs,
            "waiting": self.waiting,
            "only_indexes": self.only_indexes,
            "statements": list(self.statements),
            "events": self.events,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "bytes": self.bytes,
            "notes": list(self.notes),
            "error": None if self.error is None else self.error.message,
        }


def look(
    config: Config, names: Sequence[str] = (), store: str | None = None
) -> list[ProjectionChange]:
    """What has changed of some projections, or of all of esops.toml. Changes nothing.

    One that cannot be looked at has an `error`, and the others are looked at all the same. Raises
    UsageError for an unknown name.
    """
    for name in names:
        config.projection(name)
    asked = list(dict.fromkeys(names)) or list(config.projections)
    with ExitStack() as stack:
        stores = _Stores(config, stack)
        return [_of(config, name, store, stores) for name in asked]


class _Stores:
    """The stores that estimates are made of, each opened and counted once."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        self._config, self._stack = config, stack
        self._found: dict[str, tuple[EventStore, Position | None, int]] = {}

    def events(self, name: str) -> int:
        """How many events a store has."""
        if name not in self._found:
            store = self._stack.enter_context(open_store(*self._config.store(name)))
            head = store.head(LOOKING).position
            self._found[name] = (store, head, store.count_between(None, head))
        return self._found[name][2]


def _of(config: Config, name: str, store: str | None, stores: _Stores) -> ProjectionChange:
    found = ProjectionChange(name)
    if config.projection(name).kind == "server":
        found.unknown["query"] = "it runs inside its store, which keeps no version of the query"
        return found
    try:
        with translated(), connect(config.readmodel_of(name).dsn, f"plan {name}") as connection:
            target = resolve(config, name, store, connection)
            _Look(config, connection, target, found).all()
            if found.needs == "rebuild":
                _estimate(connection, target, found, stores)
    except EsopsError as error:
        found.error = error
    return found


class _Look:
    """One projection, held against the version that serves."""

    def __init__(
        self,
        config: Config,
        connection: psycopg.Connection,
        target: Target,
        found: ProjectionChange,
    ) -> None:
        self._config, self._connection, self._target = config, connection, target
        self._found = found
        self._versions = registry.versions(connection, target.name)
        self._serving = next((each for each in self._versions if each.state == "active"), None)

    @cached_property
    def _kept(self) -> Mapping[str, Any] | None:
        assert self._serving is not None
        return made_of.kept(self._connection, self._target.name, self._serving.version)

    def all(self) -> None:
        """Fill in what differs, and what that takes."""
        found, serving = self._found, self._serving
        self._note_unfinished()
        if serving is None:
            self._never_built()
            return
        found.version = serving.version
        self._store_and_tables(serving)
        self._code(serving)
        self._tables(serving)
        needs = set(found.changed) - _WITHOUT_REBUILD
        if needs:
            found.needs = "rebuild"
            found.only_indexes = needs == {"ddl"} and found.only_indexes
        if not found.only_indexes:
            found.statements = ()
        if needs and (waiting := self._waiting(serving)) is not None:
            found.needs, found.waiting = "switch", waiting.version
            found.only_indexes, found.statements = False, ()

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

    def _store_and_tables(self, serving: Version) -> None:
        target, changed = self._target, self._found.changed
        if serving.store != target.store_name:
            changed["store"] = f"{target.store_name}, and it was {serving.store}"
        names = {each.name for each in target.names}
        if names != set(serving.tables):
            changed["tables"] = (
                f"{', '.join(sorted(names))}, and they were {', '.join(sorted(serving.tables))}"
            )

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
            found.changed |= _differing_code(kept, now, _where(target))
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
            return
        for part in ("kind", "settings", "verify"):
            if kept.get(part) != now[part]:
                found.changed[part] = _of_setting(kept.get(part), now[part])

    def _tables(self, serving: Version) -> None:
        found, target = self._found, self._target
        if "tables" in found.changed or target.settings.kind == "external":
            return
        number = max(each.version for each in self._versions) + 1
        differing = table_changes.of_tables(self._connection, target, serving, number)
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
        made = version.fingerprint is not None and self._target.code.made(version.fingerprint)
        if not made or version.lost is not None:
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
        if entry is not None and entry.finished_at is None and entry.state != journal.VERIFIED:
            self._found.notes.append(
                f"rebuild {entry.rebuild} is not finished ({entry.state}): continue it with "
                f"esops rebuild {entry.projection} --blue-green --resume, or drop it with --abort"
            )
        accepted = self._serving and journal.accepted_code(
            self._connection, self._target.name, self._serving.version
        )
        if accepted:
            self._found.notes.append("a part of its rows is of the code before (--accept-code)")


def _where(target: Target) -> str:
    """What esops.toml names as the code."""
    settings = target.settings
    return settings.python or str(settings.statement or " ".join(settings.command))


def _differing_code(
    kept: Mapping[str, Any] | None, now: Mapping[str, Any], where: str
) -> dict[str, str]:
    """Which part of the code, the filter and the files is another, where the fingerprint is."""
    if kept is None:
        return {"function": "the code or its filter; an older esops did not keep which"}
    found = {}
    if kept["function"] != now["function"]:
        names = [
            each
            for each in sorted({*kept["names"], *now["names"]})
            if kept["names"].get(each) != now["names"].get(each)
        ]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        found["function"] = (", ".join(names[:_NAMED]) + more) or where
    for part in ("key", "events", "files"):
        if kept.get(part) != now[part]:
            found[part] = _of_setting(kept.get(part), now[part])
    # A value that the code has, and no text of it.
    return found or {"function": f"a value that {where} uses"}


def in_a_line(found: Sequence[ProjectionChange]) -> str:
    """All of it in one line, the last one of a plan."""
    changed = [each for each in found if each.changed]
    parts = []
    if changed:
        names = ", ".join(f"{each.projection} ({', '.join(each.changed)})" for each in changed)
        parts.append(f"{len(changed)} changed: {names}")
    else:
        parts.append("nothing has changed" if all(each.settled for each in found) else "0 changed")
    rebuilt = [each for each in found if each.needs == "rebuild"]
    indexed = sum(each.only_indexes for each in rebuilt)
    whole, waiting = len(rebuilt) - indexed, sum(each.needs == "switch" for each in found)
    failed = sum(each.error is not None for each in found)
    unknown = sum(each.error is None and not each.settled and bool(each.unknown) for each in found)
    parts += [f"{whole} need{'s' if whole == 1 else ''} a rebuild"] if whole else []
    if indexed:
        needs = "" if whole else f" need{'s' if indexed == 1 else ''}"
        parts.append(f"{indexed}{needs} only a new index")
    parts += [f"{waiting} wait{'s' if waiting == 1 else ''} for a switch"] if waiting else []
    parts += [f"of {unknown} it is not known"] if unknown else []
    parts += [f"{failed} could not be looked at"] if failed else []
    return parts[0] + ("; " + ", ".join(parts[1:]) if parts[1:] else "")


def _of_setting(before: object, now: object) -> str:
    """What it is now and what it was, of several only those that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        return "; ".join(
            f"{key}: {_word(before.get(key))} -> {_word(now.get(key))}" for key in keys
        )
    return f"{_word(before)} -> {_word(now)}"


def _word(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _estimate(
    connection: psycopg.Connection, target: Target, found: ProjectionChange, stores: _Stores
) -> None:
    """About how many events, seconds and bytes a rebuild takes, by the ones before."""
    found.events = stores.events(target.store_name)
    rate = _rate(connection, target.name)
    found.seconds = None if rate is None else found.events / rate
    serving = registry.active(connection, target.name)
    if serving is not None:
        tables = (catalog.find_table(connection, *each) for each in serving.tables.values())
        found.bytes = sum(bytes_of(connection, each) for each in tables if each is not None)


def _rate(connection: psycopg.Connection, name: str) -> float | None:
    """Events a second in the last rebuild of a projection, else of any other here."""
    if not migrations.installed(connection):
        return None
    for each in (name, None):
        rate = made_of.last_rate(connection, each)
        if rate is not None:
            return rate
    return None


def to_rebuild(found: Sequence[ProjectionChange]) -> list[str]:
    """The projections that need a rebuild.

    Raises the first error: nothing is begun where it is not known what has to be.
    """
    for each in found:
        if each.error is not None:
            raise each.error
    return [each.projection for each in found if each.needs == "rebuild"]
