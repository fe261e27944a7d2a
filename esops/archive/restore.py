"""Streams come back from an archive: as they were into their own store, or appended to another.

All or nothing per stream. Where other events have their positions, they get new ones if that is
asked for: all of a run's streams in one transaction, after all other events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from esops.actions import current
from esops.archive.application import own_projections
from esops.archive.archived_groups import (
    check_names,
    scope_of,
)
from esops.archive.log_runs import LogRuns, log_of
from esops.archive.other_runs import OtherRuns
from esops.archive.restoration import Restoration, RestoreOptions, RestoreResult
from esops.archive_format.manifest import Manifest
from esops.archive_format.runs import Run
from esops.config import Config
from esops.errors import Stopped, UsageError
from esops.stores import open_store
from esops.stores.archive.tenants import refuse_other_tenants
from esops.stores.base import EventStore

_DEFAULT = RestoreOptions()


def restore_run(
    config: Config,
    run: Run,
    into: str,
    streams: Sequence[str] = (),
    options: RestoreOptions = _DEFAULT,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RestoreResult:
    """Restore a run, or some of its streams, into a store of the configuration.

    Raises Stopped between two groups of streams, and what `restore` raises.
    """

    def check_stop() -> None:
        if stop():
            raise Stopped(
                "the restore was interrupted",
                hint="Run it again to resume it: streams that are complete are left as they are.",
            )

    name, settings = config.store(into)
    manifest = run.manifest()
    current.in_archive(run.repository)
    with open_store(name, settings.without_archive) as store:
        log = log_of(run, manifest, store, config)
        return restore(
            run, manifest, store, streams, options, log, check_stop=check_stop, progress=progress
        )


def restore(
    run: Run,
    manifest: Manifest,
    store: EventStore,
    names: Sequence[str] = (),
    options: RestoreOptions = _DEFAULT,
    log: LogRuns | None = None,
    *,
    check_stop: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> RestoreResult:
    """Restore all streams of a run, or those that are named. Can be run again after a kill.

    `log` is the log that the run is of, as `log_of` finds it; without it, as the run's own archive
    tells.

    In a store of the kind that they came from, streams get back their ids, versions, positions,
    times and payloads. In any other, events are appended with their ids, types and payloads, to
    streams that do not exist there.

    Raises Refused, before it writes to a stream, if the store has another event in its place;
    UsageError for a name that is not in the run, or for an option that the store cannot do.
    """
    if options.renumber and manifest.part == "head":
        raise UsageError(
            f"--renumber is not for run {run.name}: it holds the first events of streams that "
            "continue, and at new positions these would come after the others",
            hint="Leave out --renumber.",
        )
    log = log or log_of(run, manifest, store)
    restores = store.archiving.restores if store.archiving is not None else ""
    here = restores == "anywhere" or (restores and log.at_home)
    as_they_were = here and store.ping().layout == manifest.layout
    if options.renumber and not as_they_were:
        raise UsageError(
            f"--renumber is for a store of the kind that the events came from: store {store.name} "
            "gives them new positions in any case",
            hint="Leave out --renumber.",
        )
    requested = frozenset(names)
    scope = scope_of(store, manifest)
    check_names(run, manifest, requested, scope)
    if as_they_were:
        refuse_other_tenants(store, [(run, manifest)], one_of_all=scope is not None)
    # New positions come after all others.
    oldest_first = options.renumber or not as_they_were
    with OtherRuns(run, manifest, log, requested, oldest_first=oldest_first) as others:
        restoration = Restoration(run, manifest, store, requested, options, log, others)
        if as_they_were:
            restoration.as_they_were(check_stop, progress)
            if restoration.result.events or restoration.result.revived:
                # At new positions they are read as new ones.
                restoration.result.application = [] if options.renumber else own_projections(store)
        else:
            restoration.append(check_stop, progress)
        restoration.result.restore_next = others.to_restore_next
    return restoration.result
