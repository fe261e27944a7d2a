"""What the jobs of earlier processes have kept, for whoever reports on a store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import psycopg

from esops.postgres.connection import connect, translated
from esops.postgres.statements import statements
from esops.readmodel import migrations
from esops.settings import ArchiveSettings, ArchiveStoreSettings, StoreSettings
from esops.stores.base import EventStore

_SQL = statements(__package__, "queries")


class PastProgress(NamedTuple):
    """One document that a job has kept."""

    document: dict[str, Any]
    position: str | None
    at: datetime
    """When it was kept."""


def kept_before(store: EventStore, settings: StoreSettings, job: str) -> list[PastProgress]:
    """What a job has kept for an open store, for each selection of events, the newest first.
    Nothing of EventStoreDB: no list has the names of these streams.

    Raises Unavailable, and ValueError for a document that somebody else wrote.
    """
    if isinstance(settings, ArchiveStoreSettings):
        return [] if settings.cold is None else _in_archive(settings.cold, job)
    if settings.postgres is None:
        return []
    with _session(store, settings.postgres) as session:
        if not migrations.has(session, "schema_progress"):
            return []
        rows = session.execute(_SQL["of_store"], {"store": store.name, "job": job}).fetchall()
    return [PastProgress(orjson.loads(document), *rest) for document, *rest in rows]


@contextmanager
def _session(store: EventStore, dsn: str) -> Iterator[psycopg.Connection]:
    """A session in the store's database: the store's own, where it shows that."""
    if store.sql is not None:
        with store.sql.control() as own:
            yield own
        return
    # A store that is joined with its archive has no SQL.
    with translated(), connect(dsn, "schema progress") as session:
        yield session


def _in_archive(cold: ArchiveSettings, job: str) -> list[PastProgress]:
    from esops.archive_format.repository import Repository
    from esops.schema.progress.in_archives import FOLDER

    repository = Repository(cold)
    found = []
    for folder in repository.folders(FOLDER):
        if not folder.startswith(f"{job}-"):
            continue
        entries = [e for e in repository.entries(f"{FOLDER}/{folder}") if "/probe-" not in e.name]
        if entries and (repository.decrypts or not entries[-1].name.endswith(".age")):
            last = entries[-1]
            kept = orjson.loads(repository.open(last.name, repository.get(last.name)))
            found.append(PastProgress(kept["document"], kept["position"], last.modified))
    return sorted(found, key=lambda each: each.at, reverse=True)
