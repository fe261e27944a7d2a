"""What doctor says of archived runs that are sealed under another name than that of their store."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import EsopsError, Refused
from esops.health.findings import Finding
from esops.settings import ArchiveSettings
from esops.stores import open_store
from esops.stores.base import EventStore


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check the runs of all archives that have, or may have, events of one store."""
    settings = config.stores[name]
    archives = {each.repository: each for each in config.archives.values()}
    if settings.cold is not None:
        archives.setdefault(settings.cold.repository, settings.cold)
    if settings.backend == "archive" or not archives:
        return
    try:
        with open_store(name, settings.without_archive) as store:
            for archive in archives.values():
                yield from _of_archive(config, name, archive, store)
    except EsopsError:
        return  # the store itself has a finding


def _of_archive(
    config: Config, name: str, archive: ArchiveSettings, store: EventStore
) -> Iterator[Finding]:
    # Imported only if there is an archive.
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.stores.archive.archived_away import lacking
    from esops.stores.archive.own_runs import own_runs

    try:
        repository = Repository(archive)
        runs = own_runs(repository, Catalog(repository).sealed(), store, config.stores[name])
    except EsopsError:
        return  # the archive itself has a finding
    copies = all(manifest.store in config.stores for _, manifest in runs.others)
    # What was restored into a second store, or copied, and is all there needs no archive.
    if copies and runs.others and not lacking(runs.others, store).events:
        runs.others.clear()
    try:
        runs.refuse_others()
    except Refused as error:
        yield Finding("ESOPS-D076", f"store {name}", error.message, error.hint)
