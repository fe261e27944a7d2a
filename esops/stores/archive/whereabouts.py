"""Where a stream is that a store does not have: which archived runs hold it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from esops.config import Config
from esops.errors import EsopsError, NoStream, UsageError
from esops.settings import PostgresSettings
from esops.stores import open_store


class Whereabouts(NamedTuple):
    """An archived run that holds a stream."""

    archive: str
    run: str
    events: int


def runs_with(config: Config, store: str, stream: str) -> Iterator[Whereabouts]:
    """The sealed runs of a store that hold a stream, the newest last; an archive that cannot be
    read has none.
    """
    # Imported only if there is an archive.
    from esops.archive_format.repository import Repository
    from esops.archive_format.runs import Catalog
    from esops.stores.archive.own_runs import own_runs

    own = config.stores.get(store)
    if own is None:
        return
    tenant = own.tenant if isinstance(own, PostgresSettings) else None
    for archive, settings in config.archives.items():
        try:
            repository = Repository(settings)
            with open_store(store, own.without_archive) as opened:
                runs = own_runs(repository, Catalog(repository).sealed(), opened, own).all
            for run, manifest in runs:
                if not any(each.first <= stream <= each.last for each in manifest.stream_files):
                    continue
                held = [
                    each
                    for each, _ in run.streams(manifest)
                    if each.stream == stream and (tenant is None or each.tenant in ("", tenant))
                ]
                if held:
                    yield Whereabouts(archive, run.name, sum(each.events for each in held))
        except EsopsError:
            continue


def archived_stream(config: Config, error: NoStream) -> UsageError:
    """The error for a stream that a store does not have; of an archived one it says so."""
    found = list(runs_with(config, error.store, error.stream))
    if not found:
        return error
    archive, run, events = found[-1]
    more = f", and {len(found) - 1} older" if len(found) > 1 else ""
    return UsageError(
        f"store {error.store} has no event of stream {error.stream!r} any more: it was archived "
        f"and removed; run {run} of archive {archive} holds {events:,} of its events{more}",
        hint=f'Read both with archive = "{archive}" in [stores.{error.store}], or restore it: '
        f"esops archive restore {run} {error.stream}",
    )
