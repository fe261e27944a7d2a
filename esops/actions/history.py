"""`esops history`: the actions of all databases and archives of a configuration, as one list."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from esops.actions import database, in_archives, in_stores
from esops.actions.action import RUNNING, WITHOUT_A_WORD, PastAction
from esops.archive_format.repository import Repository
from esops.config import Config
from esops.errors import AbsentArchive, EsopsError, Unavailable
from esops.postgres.connection import connect, translated
from esops.postgres.session import READ
from esops.readmodel import migrations
from esops.settings import ArchiveSettings
from esops.stores import open_store


@dataclass(frozen=True)
class History:
    """Actions, the newest last, and what an operator should know of them."""

    actions: list[PastAction]
    notes: list[str] = field(default_factory=list)
    """Where nothing is recorded, or cannot be read."""
    complete: bool = True
    """Whether every place could be read."""

    def as_dict(self) -> dict[str, Any]:
        """Under the documented field names."""
        return {"actions": [each.as_dict() for each in self.actions], "notes": self.notes}


_LONGEST = timedelta(days=36_500)
"""Longer than anything was recorded. The server's times do not go back as far as a duration can."""


@dataclass(frozen=True)
class _Question:
    projection: str | None
    since: timedelta | None
    last: int


def history(
    config: Config,
    projection: str | None = None,
    *,
    since: timedelta | None = None,
    last: int = 50,
) -> History:
    """The newest actions of a configuration; of one projection, where it is named. Changes nothing.

    Raises UsageError for an unknown projection, and Unavailable where no place can be read.
    """
    if projection is not None:
        config.projection(projection)
    question = _Question(projection, since and min(since, _LONGEST), last)
    found: list[PastAction] = []
    notes: list[str] = []
    failed: list[EsopsError] = []
    databases, archives, stores = _databases(config), config.archives, _stores(config)
    for dsn, name in databases.items():
        try:
            found += _of_database(dsn, name, question, notes)
        except EsopsError as error:
            failed.append(error)
            notes.append(f"{name} cannot be read: {error.message}")
    for name, settings in archives.items():
        try:
            found += _of_archive(settings, question)
        except EsopsError as error:
            failed.append(error)
            notes.append(f"archive {name} cannot be read: {error.message}")
    for name in stores:
        try:
            with open_store(name, config.stores[name].without_archive) as store:
                found += in_stores.past(store, projection, since, last)
        except EsopsError as error:
            failed.append(error)
            notes.append(f"store {name} cannot be read: {error.message}")
    if failed and len(failed) == len(databases) + len(archives) + len(stores):
        raise Unavailable(notes[-1], hint=failed[-1].hint)
    return History(_merged(found)[-last:], notes, complete=not failed)


def _databases(config: Config) -> dict[str, str]:
    """The databases that may have actions, by their addresses, and their names for a person."""
    found = {each.dsn: f"read model {name}" for name, each in config.readmodels.items()}
    for name, store in config.stores.items():
        if store.postgres is not None:
            found.setdefault(store.postgres, f"the database of store {name}")
    return found


def _stores(config: Config) -> list[str]:
    """The stores that have projections inside them, with esops' stream on these."""
    inside = [each.store for each in config.projections.values() if each.kind == "server"]
    return sorted({config.store(each)[0] for each in inside})


def _of_database(dsn: str, name: str, question: _Question, notes: list[str]) -> list[PastAction]:
    with translated(), connect(dsn, "history", READ) as connection:
        if not migrations.installed(connection):
            return []
        if not migrations.has(connection, "actions"):
            number = migrations.schema_number(connection)
            notes.append(
                f"{name}: an older esops made esops' own tables (schema {number}), which records "
                "no actions. The next command that writes there upgrades them."
            )
            return []
        return database.past(connection, question.projection, question.since, question.last)


def _of_archive(settings: ArchiveSettings, question: _Question) -> list[PastAction]:
    try:
        repository = Repository(settings)
    except AbsentArchive:
        return []
    return in_archives.past(repository, question.projection, question.since, question.last)


def _merged(found: Iterable[PastAction]) -> list[PastAction]:
    """Each action once, in the order of time. One that was written down in several places has ended
    where any says so, and its process is there where any knows it.
    """
    merged: dict[str, PastAction] = {}
    for each in found:
        before = merged.get(each.id)
        if before is None or _rank(each) > _rank(before):
            merged[each.id] = each
    return sorted(merged.values(), key=lambda each: (each.at, each.id))


def _rank(action: PastAction) -> tuple[int, bool]:
    return {WITHOUT_A_WORD: 0, RUNNING: 1}.get(action.result, 2), action.role is not None
