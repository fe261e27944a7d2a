"""What was removed from a store after it was archived, so that a read of the store misses it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from esops.config import Config
from esops.events import EventFilter, Position
from esops.settings import ArchiveSettings
from esops.wording import count

_EVERYTHING = EventFilter()


@dataclass(frozen=True, slots=True)
class ArchivedAway:
    """Streams of a store that one archive holds and that were removed from the store."""

    archive: str
    runs: int
    streams: int
    events: int
    unfinished: bool = False
    """Whether a run of these is not finished, so that some of its events may still be there."""
    last_position: Position | None = None
    """The highest position of an event in those runs that are finished."""

    def __str__(self) -> str:
        runs = count(self.runs, "run") + (", not all finished" if self.unfinished else "")
        return (
            f"{count(self.events, 'event')} of {count(self.streams, 'stream')} were archived "
            f"and removed ({runs} in archive {self.archive})"
        )


def removed_from(
    config: Config,
    store: str,
    filter: EventFilter = _EVERYTHING,
    since: datetime | None = None,
) -> list[ArchivedAway]:
    """What was removed from a store, for each archive of the configuration; with `since`, by runs
    that began later.

    Runs of which the filter can want nothing are left out: of another category, or of streams that
    the store itself still gives, as archived ones. Raises Unavailable, Damaged or UsageError where
    an archive cannot be read.
    """
    found = []
    for name, settings in config.archives.items():
        if not any(config.store(policy.store)[0] == store for policy in settings.policies.values()):
            continue
        # Imported only if there is an archive, so that a rebuild without one needs neither Parquet
        # nor object stores.
        from esops.archive_format.repository import Repository
        from esops.archive_format.runs import Catalog

        runs, streams, events, unfinished = 0, 0, 0, False
        last: Position | None = None
        for run, manifest in Catalog(Repository(settings)).sealed(store, since):
            if _of_others(settings, manifest.policy, filter):
                continue
            # A run that was stopped while it removed has removed some: all of them count.
            done = run.read("done.json")
            how = done or run.read("plan.json") or {}
            if how.get("remove") == "keep" or (filter.archived and how.get("remove") == "archive"):
                continue
            removed = manifest.streams if done is None else int(done.get("removed", 0))
            if removed:
                runs += 1
                streams += removed
                events += manifest.events if done is None else int(done.get("removed_events", 0))
                unfinished |= done is None
                if done is not None:
                    highest = Position.parse(manifest.last_position)
                    last = highest if last is None else max(last, highest)
        if runs:
            found.append(ArchivedAway(name, runs, streams, events, unfinished, last))
    return found


def _of_others(settings: ArchiveSettings, policy: str, filter: EventFilter) -> bool:
    """Whether a policy archives another category than the filter wants."""
    known = settings.policies.get(policy.rpartition("/")[2])
    if known is None or known.category is None or filter.category is None:
        return False
    return known.category != filter.category
