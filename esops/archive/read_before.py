"""Versions of read models that had read events which get new positions: they would read them twice.

Such a version is given up before that can happen. Nobody follows it any more; what it serves stays
as it is, until it is rebuilt.
"""

from __future__ import annotations

from esops.archive.registered import versions_of_store
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.config import Config
from esops.events import EventFilter, Position
from esops.postgres.connection import connect, translated
from esops.readmodel import checkpoints, registry
from esops.stores.archive.categories import may_be_in
from esops.stores.base import EventStore


def stop_readers(
    config: Config | None,
    store: EventStore,
    run: Run,
    manifest: Manifest,
    requested: frozenset[str],
) -> list[str]:
    """Give up the versions that have, or may have, read the requested events of a run; without
    names all of them; without a configuration there are none. Returns the names of the projections.

    To be called before these events are visible at their new positions: who advances a version in
    that moment is refused. Raises Unavailable where a registry cannot be asked.
    """
    if config is None:
        return []
    first = Position.parse(manifest.first_position)
    stopped = []
    for each in versions_of_store(config, store, store.name, of_any_history=True):
        filter = EventFilter() if each.settings is None else each.settings.filter
        if each.doubt or not _has_any(run, manifest, requested, filter):
            continue
        with translated(), connect(each.dsn, "archive") as connection, connection.transaction():
            version = registry.version(connection, each.version.projection, each.version.version)
            if version.position is None or version.position < first:
                continue
            checkpoints.clear_checkpoint(
                connection,
                version,
                "events that it had read were restored at new positions, and it would read them "
                f"again (run {run.name})",
            )
            stopped.append(each.name)
    return sorted(set(stopped))


def _has_any(run: Run, manifest: Manifest, requested: frozenset[str], filter: EventFilter) -> bool:
    """Whether a filter may want one of the streams."""
    return any(
        (not requested or digest.stream in requested)
        and filter.stream in (None, digest.stream)
        and (filter.category is None or may_be_in(filter.category, manifest, digest, row))
        for digest, row in run.streams(manifest)
    )
