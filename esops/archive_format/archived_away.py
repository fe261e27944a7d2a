"""What was removed from a store after it was archived, so that a read of the store misses it."""

from __future__ import annotations

from dataclasses import dataclass

from esops.config import Config
from esops.errors import EsopsError
from esops.wording import count


@dataclass(frozen=True, slots=True)
class ArchivedAway:
    """Streams of a store that one archive holds and that were removed from the store."""

    archive: str
    runs: int
    streams: int
    events: int

    def __str__(self) -> str:
        return (
            f"{count(self.events, 'event')} of {count(self.streams, 'stream')} were archived "
            f"and removed ({count(self.runs, 'run')} in archive {self.archive})"
        )


def removed_from(config: Config, store: str) -> list[ArchivedAway]:
    """What was removed from a store, for each archive of the configuration.

    An archive that cannot be reached is left out: this is for information only.
    """
    found = []
    for name, settings in config.archives.items():
        if not any(config.store(policy.store)[0] == store for policy in settings.policies.values()):
            continue
        # Imported only if there is an archive, so that a rebuild without one needs neither Parquet
        # nor object stores.
        from esops.archive_format.repository import Repository
        from esops.archive_format.runs import Catalog

        runs, streams, events = 0, 0, 0
        try:
            for run, _ in Catalog(Repository(settings)).sealed(store):
                # A run that only keeps, or was stopped before its end, has removed nothing or not
                # all: the store itself still has those events.
                done = run.read("done.json")
                if done is not None and done.get("removed"):
                    runs += 1
                    streams += done["removed"]
                    events += done["removed_events"]
        except EsopsError:
            continue
        if runs:
            found.append(ArchivedAway(name, runs, streams, events))
    return found
