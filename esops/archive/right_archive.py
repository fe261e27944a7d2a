"""Is an archive the one that a store's earlier runs went to? Asked before a run writes to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from esops.archive_format.manifest import Manifest
from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog, Run
from esops.archive_format.summaries import summaries
from esops.errors import AbsentArchive, Refused
from esops.settings import ArchiveSettings, StoreSettings
from esops.stores import open_store
from esops.stores.archive.beginnings import lost_beginnings
from esops.stores.archive.own_runs import own_runs
from esops.stores.archive.tenants import refuse_other_tenants
from esops.stores.base import EventStore


def check_place(
    settings: ArchiveSettings,
    store_name: str,
    store: StoreSettings,
    archives: Iterable[ArchiveSettings],
) -> None:
    """Raises Refused where the place has no archive, and the store shows that events of it are gone
    already which none of the other archives has: an archive that is begun there would hide the one
    that has them.

    `store`: the store's own settings; it is opened only where the place is empty. `archives`: all
    of the configuration.
    """
    try:
        Catalog(Repository(settings)).check_there()
    except AbsentArchive as absent:
        with open_store(store_name, store.without_archive) as opened:
            others = [each for each in archives if each.repository != settings.repository]
            lost = lost_beginnings(
                opened, list(_runs_in(others, opened, store)), opened.tenant_scope
            )
        if lost.streams:
            raise Refused(
                f"{absent.message}; and the first events of stream {lost.stream!r} are not in "
                f"store {store_name} any more, so that something was archived before",
                hint="Nothing was archived. Is the disk mounted, and the prefix right? If the "
                "application removed them itself, or this is to be a new archive: --new-archive.",
            ) from None


def _runs_in(
    archives: Iterable[ArchiveSettings], store: EventStore, settings: StoreSettings
) -> Iterator[tuple[Run, Manifest]]:
    """The runs of a store in archives that are there."""
    for each in archives:
        with suppress(AbsentArchive):
            repository = Repository(each)
            yield from own_runs(repository, Catalog(repository).sealed(), store, settings).all


def check_tenants(catalog: Catalog, store: EventStore, names: Sequence[str]) -> None:
    """Raises Refused where the newest run of a store, sealed under one of its names, and the store
    of today do not name tenants alike: an archive with both could not be read as one.
    """
    newest = next(
        (
            each
            for each in reversed([*summaries(catalog)])
            if each.get("store") in names and each.get("sealed_at") and each["state"] != "failed"
        ),
        None,
    )
    if newest is not None:
        run = Run(catalog.repository, newest["run"])
        # One that is not done is compared with the store, row by row.
        refuse_other_tenants(store, [(run, run.manifest())], read=newest["state"] == "done")
