"""What doctor checks of the filters in esops.toml: do they find anything, and all of it."""

from __future__ import annotations

from collections.abc import Iterator

from esops.archive_format.archived_away import removed_from
from esops.config import Config
from esops.errors import EsopsError, UsageError
from esops.events import EventFilter
from esops.health.findings import Finding
from esops.settings import ProjectionSettings
from esops.stores import open_store
from esops.stores.base import EventStore
from esops.stores.filters import check_filter


def examine(config: Config, name: str) -> Iterator[Finding]:
    """Check the filters of the projections and policies of one store."""
    projections = {
        projection: settings
        for projection, settings in config.projections.items()
        if settings.kind != "server" and _is_of(config, settings.store, name)
    }
    policies = {
        policy: settings
        for archive in config.archives.values()
        for policy, settings in archive.policies.items()
        if settings.closed_by and _is_of(config, settings.store, name)
    }
    if not projections and not policies:
        return
    try:
        with open_store(name, config.stores[name]) as store:
            for projection, settings in projections.items():
                yield from _named(f"projection {projection}", store, settings.filter)
            for policy, rule in policies.items():
                one = EventFilter(types=rule.closed_by, archived=True)
                yield from _named(f"policy {policy}", store, one)
    except EsopsError:
        return  # the store itself has a finding
    for projection, settings in projections.items():
        yield from _archived_away(config, projection, settings, name)


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


def _archived_away(
    config: Config, projection: str, settings: ProjectionSettings, store: str
) -> Iterator[Finding]:
    """Whether a rebuild of a projection would miss events that were archived and removed."""
    if config.stores[store].archive:
        return
    try:
        found = removed_from(config, store, settings.filter)
    except EsopsError:
        return  # the archive itself has a finding
    for away in found:
        yield Finding(
            "ESOPS-D049",
            f"projection {projection}",
            f"{away}, and store {store} does not read that archive: a rebuild would miss them",
            f'Set archive = "{away.archive}" in [stores.{store}].',
        )
