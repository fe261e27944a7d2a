"""A store as one of its tenants sees it, for a command that is told which."""

from __future__ import annotations

from contextlib import suppress

from esops.errors import EsopsError, NoTenant, NothingFound, UsageError
from esops.events import EventFilter
from esops.settings import ArchiveStoreSettings, PostgresSettings, StoreSettings
from esops.stores import open_store
from esops.stores.archiving import TenantScope
from esops.stores.base import EventStore

_LEAVE_OUT = "Leave --tenant out."


def open_for(name: str, settings: StoreSettings, tenant: str | None) -> EventStore:
    """Open a store; with a tenant, for that one's events alone, as `tenant` in its section does.

    Raises NothingFound where the store has nothing of that tenant, UsageError where its section
    names another one or it has no tenants, and what opening does.
    """
    if tenant is None:
        return open_store(name, settings)
    if isinstance(settings, PostgresSettings):
        return _in_postgres(name, settings, tenant)
    if isinstance(settings, ArchiveStoreSettings):
        return _in_archive(name, settings, tenant)
    raise UsageError(f"store {name} has no tenants", hint=_LEAVE_OUT)


def _in_postgres(name: str, settings: PostgresSettings, tenant: str) -> EventStore:
    if settings.tenant not in (None, tenant):
        raise UsageError(
            f"store {name} reads the events of tenant {settings.tenant!r} only",
            hint="Leave --tenant out, or name a store without the key `tenant`.",
        )
    try:
        store = open_store(name, settings.model_copy(update={"tenant": tenant}))
    except NoTenant as error:
        there = error.hint if error.hint and error.hint.startswith("There is") else _LEAVE_OUT
        raise NothingFound(f"store {name} has no tenant {tenant!r}", hint=there) from None
    absent: str | None = None
    with suppress(EsopsError):  # it says so itself, when it is read
        absent = store.names.absent_tenant()
    if absent is not None:
        store.close()
        raise NothingFound(f"store {name}: {absent}")
    return store


def _in_archive(name: str, settings: ArchiveStoreSettings, tenant: str) -> EventStore:
    from esops.stores.archive.store import ArchiveStore

    with ArchiveStore(name, settings) as every:
        # None: it is on another machine, and to look takes too long.
        if every.names.any_passes(EventFilter(tenant=tenant, archived=True)) is False:
            raise NothingFound(f"store {name} has no event of tenant {tenant!r}", hint=_LEAVE_OUT)
    # Of no layout: what a row does not say of itself is no tenant's.
    return ArchiveStore(name, settings, scope=TenantScope(tenant, "", "", named=True))
