"""The archive of a joined store, with the runs that it has now.

A run is sealed and in the catalog before the first of its events leaves the store. So what a look
at the store lacks is in a run that a later look at the catalog shows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from esops.archive_format.repository import Repository
from esops.archive_format.runs import Catalog
from esops.errors import AbsentArchive, ConnectionLost, Refused, Unavailable
from esops.settings import ArchiveStoreSettings, StoreSettings
from esops.stores.archive.complete import check_complete
from esops.stores.archive.out_of_order import check_order
from esops.stores.archive.own_runs import own_runs
from esops.stores.archive.store import ArchiveStore
from esops.stores.base import EventStore


class ColdPart:
    """What a store's archive has of it."""

    def __init__(self, hot: EventStore, settings: StoreSettings) -> None:
        """`hot` is open, `settings` are those of the joined store.

        Raises Refused where runs of the store would not be read, or are lost; Unavailable, Damaged.
        """
        assert settings.cold is not None
        self._hot, self._settings = hot, settings
        self._catalog = Catalog(Repository(settings.cold))
        self._names = self._catalog.catalogued()
        self._looked = time.monotonic()
        self.store = self._open()
        """Another one after `renew`, while this one may still be read."""

    def _open(self) -> ArchiveStore:
        catalog, settings = self._catalog, self._settings
        sealed = catalog.sealed()
        runs = own_runs(catalog.repository, sealed, self._hot, settings)
        runs.refuse_others()
        check_complete(catalog, sealed, lambda name: runs.may_be(name, sealed, settings))
        of = ArchiveStoreSettings(of=runs.names, cold=settings.cold)
        store = ArchiveStore(self._hot.name, of, runs.own, self._hot.tenant_scope)
        check_order(self._hot, store)
        return store

    def renew(self) -> bool:
        """Take in the runs that were sealed since; returns whether there are any.

        To be called after the store was read, and before the archive is. Raises ConnectionLost
        where the archive cannot be reached, Refused where runs are gone, and what opening does.
        """
        try:
            # One listing of small names: it is asked for with every page of the store.
            names, looked = self._catalog.catalogued(), time.monotonic()
            if names != self._names:
                self._check_grown(names)
                self.store = self._open()
        except AbsentArchive:
            raise
        except Unavailable as error:
            # Whoever follows a store waits for it, and for the archive that is a part of it.
            raise ConnectionLost(error.message, hint=error.hint) from None
        renewed = names != self._names
        self._names, self._looked = names, looked
        return renewed

    def _check_grown(self, names: Sequence[str]) -> None:
        gone = set(self._names).difference(names)
        if gone and names:  # runs are missing, which is not the same as no archive
            raise Refused(
                f"run {min(gone)} was in the archive {self._catalog.repository.address} when it "
                "was opened, and is gone: was the archive replaced by an older copy?",
                hint="Restore the archive, and run this again. If the run was deleted on "
                "purpose: run this again.",
            )

    @property
    def age(self) -> float:
        """Seconds since the last look at the catalog."""
        return time.monotonic() - self._looked
