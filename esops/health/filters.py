"""What doctor checks of the filters in esops.toml: do they find anything, and all of it."""

from __future__ import annotations

from collections.abc import Iterator

from esops.config import Config
from esops.errors import EsopsError, Refused, UsageError
from esops.events import EventFilter
from esops.health.findings import Finding
from esops.rebuild.shortened import refusal
from esops.settings import ArchiveSettings, PolicySettings, ProjectionSettings
from esops.stores import open_store
from esops.stores.archive.archived_away import join_with, removed_from
from esops.stores.base import LOOKING, EventStore
from esops.stores.filters import check_filter
from esops.stores.shortened import not_taken, remedy

_LOOKED_THROUGH = 10_000_000
"""Events."""


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check the filters of the projections and policies of one store."""
    projections = {
        projection: settings
        for projection, settings in config.projections.items()
        if settings.kind != "server" and _is_of(config, settings.store, name)
    }
    policies = {
        policy: (archive, settings)
        for archive in config.archives.values()
        for policy, settings in archive.policies.items()
        if (settings.closed_by or settings.until or settings.category)
        and _is_of(config, settings.store, name)
    }
    if not projections and not policies:
        return
    try:
        with open_store(name, config.stores[name]) as store:
            if projections and config.stores[name].archive:
                yield from _without_beginning(store)
            for projection, settings in projections.items():
                away = list(_archived_away(config, projection, settings, store))
                yield from away or _named(f"projection {projection}", store, settings.filter)
                yield from _shortened(projection, settings, store)
            for policy, (archive, rule) in policies.items():
                # Its runs may have taken away all of these events, as they should.
                if not _has_run(config, archive, policy, store):
                    yield from _policy(policy, rule, store)
    except EsopsError:
        return  # the store itself has a finding


def _policy(name: str, rule: PolicySettings, store: EventStore) -> Iterator[Finding]:
    """What a policy names and the store does not have."""
    subject = f"policy {name}"
    for one in (
        EventFilter(category=rule.category, archived=True),
        EventFilter(types=rule.closed_by, archived=True),
        EventFilter(types=rule.until, archived=True),
    ):
        yield from _named(subject, store, one)


def _has_run(config: Config, archive: ArchiveSettings, policy: str, store: EventStore) -> bool:
    """Whether an archive has runs of a store by a policy; no where it cannot be read, which is a
    finding of its own.
    """
    # Imported only if there is an archive.
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.stores.archive.own_runs import own_runs

    try:
        repository = Repository(archive)
        sealed = [
            each
            for each in Catalog(repository).sealed()
            if each[1].policy.rpartition("/")[2] == policy
        ]
        if store.halves is not None:
            store = store.halves.hot
        return bool(own_runs(repository, sealed, store, config.stores[store.name]).all)
    except EsopsError:
        return False


def _is_of(config: Config, named: str | None, store: str) -> bool:
    """Whether a section that names this store, or none, is about it."""
    return named == store or (named is None and len(config.stores) == 1)


def _named(subject: str, store: EventStore, filter: EventFilter) -> Iterator[Finding]:
    try:
        notes = check_filter(store, filter)
    except UsageError as error:
        yield Finding("ESOPS-D051", subject, error.message, error.hint)
        return
    for note in notes:
        yield Finding("ESOPS-D051", subject, note, "Correct the name, if no such event will come.")


def _without_beginning(store: EventStore) -> Iterator[Finding]:
    """Whether a rebuild would miss events that neither the store nor its archive has."""
    if store.halves is None:
        return
    # Imported only if there is an archive.
    from esops.stores.archive.beginnings import check_begins

    hot = store.halves.hot
    if hot.counts.between(None, hot.head(LOOKING).position) > _LOOKED_THROUGH:
        return  # a rebuild, which reads all of it, looks anyway
    try:
        check_begins(store, store.halves)
    except Refused as error:
        yield Finding("ESOPS-D049", f"store {store.name}", error.message, error.hint)


def _shortened(
    projection: str, settings: ProjectionSettings, store: EventStore
) -> Iterator[Finding]:
    """Whether a rebuild would see streams from their middle on."""
    if store.counts.between(None, store.head(LOOKING).position) > _LOOKED_THROUGH:
        return  # a rebuild, which reads all of it, looks anyway
    if found := not_taken(store.losses.shortened(settings.filter), settings.begins_with):
        message, fix = refusal(store, projection, found), remedy(projection, found)
        yield Finding("ESOPS-D077", f"projection {projection}", message, fix)


def _archived_away(
    config: Config, projection: str, settings: ProjectionSettings, store: EventStore
) -> Iterator[Finding]:
    """Whether a rebuild of a projection would miss events that were archived and removed."""
    try:
        if store.halves is not None and settings.kind == "external":
            store = store.halves.hot  # whoever builds it reads no archive
        found = removed_from(config, store, settings.filter)
    except EsopsError:
        return  # the archive itself has a finding
    for away in found:
        yield Finding(
            "ESOPS-D049",
            f"projection {projection}",
            f"{away}, and store {store.name} does not read that archive: a rebuild would miss them",
            join_with(config, store.name, away),
        )
