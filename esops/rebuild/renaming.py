"""`esops projection rename`: the registry gets the name that a projection has in esops.toml now.

Versions, checkpoints, the journal, dead letters and requests are moved in one transaction. Tables
keep their names, which the registry has; no other name is made of a projection's.

    plan(config, "cart_summary", "carts").run()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import structlog
from psycopg import sql

from esops.config import Config
from esops.errors import Busy, Refused, UsageError, nearest
from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import locks, registry
from esops.readmodel.names import names_of
from esops.readmodel.registry import Version
from esops.rebuild import journal
from esops.rebuild.retiring import take_lock

log = structlog.get_logger("esops.versions")
_SQL = statements(__package__, "renaming")
_LIVE = {*registry.LIVE_STATES, "building"}


@dataclass(frozen=True, slots=True)
class Renaming:
    """A projection's new name, and what is moved to it."""

    config: Config
    old: str
    new: str
    versions: Sequence[Version]
    statements: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {
            "projection": self.new,
            "renamed_from": self.old,
            "versions": [{"version": v.version, "state": v.state} for v in self.versions],
            "statements": list(self.statements),
        }

    def run(self) -> None:
        """Do it, under the locks of both names. Raises as `plan`, and Busy where somebody works on
        the projection.
        """
        old, new = self.old, self.new
        with (
            translated(),
            connect(self.config.readmodel_of(new).dsn, f"rename {old}") as connection,
        ):
            for name in (old, new):
                take_lock(connection, name)
            for each in registry.versions(connection, old):
                _take_version_lock(connection, each)
            with connection.transaction():
                # Checked again under the locks: who had them may have changed anything.
                connection.execute(_filled("hold", old=old))
                done = _check(self.config, connection, old, new)
                for statement in done.statements:
                    connection.execute(statement.encode())
                entry = journal.latest(connection, new)
                if entry is not None:
                    detail = {"from": old, "to": new}
                    journal.note(connection, entry.rebuild, entry.state, "renamed", detail)
        log.info("renamed", projection=new, before=old, versions=len(done.versions))


def plan(config: Config, old: str, new: str) -> Renaming:
    """What renaming a projection in the registry would do; changes nothing.

    `new` is its name in esops.toml. Raises UsageError or Refused where it cannot be done, and Busy
    while somebody works on it.
    """
    _check_configuration(config, old, new)
    with translated(), connect(config.readmodel_of(new).dsn, f"rename {old}") as connection:
        found = _check(config, connection, old, new)
        for each in found.versions:
            if locks.holder(connection, locks.version_lock(old, each.version)) is not None:
                _take_version_lock(connection, each)
    return found


def _check_configuration(config: Config, old: str, new: str) -> None:
    if old == new:
        raise UsageError(f"{old} has that name already")
    if new not in config.projections:
        hint = f"Rename its section to [projections.{new}] first; then run this command."
        if old not in config.projections:
            hint = nearest(new, config.projections) or hint
        raise UsageError(f"{config.path}: there is no projection named {new!r}", hint=hint)
    if old in config.projections:
        raise UsageError(
            f"{config.path}: it has both {old} and {new}, so {old} was not renamed to {new}",
            hint=f"If they are one projection, remove the section [projections.{old}] first.",
        )
    if config.projection(new).kind == "server":
        raise Refused(
            f"{new} runs inside its store, which cannot rename a projection: its versions and its "
            f"journal are called {old} there",
            hint=f"Keep the name {old} in esops.toml. Or build {new} as another one, and remove "
            f"{old} with the store's own administration.",
        )


def _check(config: Config, connection: psycopg.Connection, old: str, new: str) -> Renaming:
    """What is to be moved. Raises UsageError or Refused."""
    there = registry.versions(connection, new)
    last = journal.latest(connection, new)
    versions = registry.versions(connection, old)
    entry = journal.latest(connection, old)
    if not versions and entry is None:
        known = sorted({each.projection for each in registry.versions(connection)})
        raise UsageError(
            f"the registry knows no projection {old}",
            hint=f"It knows {', '.join(known)}." if known else "It knows none.",
        )
    if there or last is not None:
        states = ", ".join(f"v{each.version} is {each.state}" for each in there)
        raise Refused(
            f"the registry has a projection {new} already{': ' if states else ''}{states}",
            hint=f"Give {old} another name in esops.toml.",
        )
    if entry is not None and entry.finished_at is None:
        raise Refused(
            f"rebuild {entry.rebuild} of {old} is not finished: {entry.state}",
            hint=f"Name it {old} in esops.toml again, finish it with --resume or end it with "
            "--abort, and then rename it.",
        )
    _check_tables(config, connection, versions, new)
    return Renaming(config, old, new, versions, _statements(connection, old, new))


def _check_tables(
    config: Config, connection: psycopg.Connection, versions: Sequence[Version], new: str
) -> None:
    """Raises Refused where readers read another table by the new name: another projection is meant,
    or its tables were renamed as well.
    """
    names = names_of(config, new, connection)
    wanted = {each.name for each in names}
    for each in versions:
        if each.state in _LIVE and set(each.tables) != wanted:
            raise Refused(
                f"v{each.version} of {each.projection} is read as {', '.join(each.tables)}, and "
                f"{new} in esops.toml as {', '.join(map(str, names))}",
                hint="A projection is renamed, and keeps its tables: correct the name, or `tables` "
                "in esops.toml.",
            )


def _statements(connection: psycopg.Connection, old: str, new: str) -> list[str]:
    tables = [row[0] for row in connection.execute(_SQL["tables"])]
    done = [_filled("controls", old=old, new=new)] if "controls" in tables else []
    return [*done, *(_filled("move", table, old=old, new=new) for table in tables)]


def _filled(name: str, table: str = "", **names: str) -> str:
    """A statement as it is shown, and run."""
    values = {key: sql.Literal(value) for key, value in names.items()}
    return sql.SQL(_SQL[name]).format(table=sql.Identifier(table), **values).as_string(None)


def _take_version_lock(connection: psycopg.Connection, version: Version) -> None:
    """Raises Busy where a process follows the version, and would continue by the old name."""
    name = locks.version_lock(version.projection, version.version)
    if version.state not in _LIVE or locks.take(connection, name, timedelta(seconds=2)):
        return
    who = locks.holder(connection, name) or "a session that is just ending"
    raise Busy(
        f"v{version.version} of {version.projection} is kept fresh by {who}",
        hint="Stop `esops run`, rename it, and start `esops run` again.",
    )
